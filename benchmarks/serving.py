"""Requests a second of the service on loopback, with batching of concurrent requests and without.

    python -m benchmarks.serving RUN [--clients 1 8 64] [--requests 600]

RUN is a run folder or a bundle. The service runs in a process of its own with one thread; clients keep their
connections, and each waits for its answer before it asks again. Histories are those of the bundle's test users.
"""

import argparse
import asyncio
import json
import os
import random
import statistics
import subprocess
import sys
import time
from pathlib import Path

import pyarrow.parquet as pq

from experiments.export import export
from serving.bundle import EXAMPLES, ITEMS

PORT = 8761
BATCHES = (64, 1)


async def ask(body: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> int:
    """Sends one request over an open connection; returns the status."""
    head = (
        f"POST /recommend HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    writer.write(head.encode() + body)
    answer = await reader.readuntil(b"\r\n\r\n")
    length = next(int(line[15:]) for line in answer.lower().split(b"\r\n") if line.startswith(b"content-length:"))
    await reader.readexactly(length)
    return int(answer.split(b" ")[1])


async def client(bodies: list[bytes], left: list[int], seconds: list[float]) -> None:
    """Asks until nothing is left to ask."""
    reader, writer = await asyncio.open_connection("127.0.0.1", PORT)
    while left[0]:
        left[0] -= 1
        start = time.perf_counter()
        status = await ask(random.choice(bodies), reader, writer)
        if status != 200:
            raise RuntimeError(f"status {status}")
        seconds.append(time.perf_counter() - start)
    writer.close()


async def load(bodies: list[bytes], clients: int, requests: int) -> tuple[float, list[float]]:
    """Requests a second, and how long each of them took."""
    left, seconds = [requests], []
    start = time.perf_counter()
    await asyncio.gather(*(client(bodies, left, seconds) for _ in range(clients)))
    return requests / (time.perf_counter() - start), seconds


def bodies_of(bundle: Path) -> list[bytes]:
    raw_ids = pq.read_table(bundle / ITEMS)["item"].to_pylist()
    histories = pq.read_table(bundle / EXAMPLES)["history"].to_pylist()
    return [json.dumps({"history": [raw_ids[item] for item in history]}).encode() for history in histories]


def start(bundle: Path, batch: int) -> subprocess.Popen[bytes]:
    """The service, once it answers."""
    command = [sys.executable, "-m", "experiments.serve", str(bundle), f"port={PORT}", f"batch={batch}"]
    service = subprocess.Popen(command, env={**os.environ, "OMP_NUM_THREADS": "1"}, stdout=subprocess.DEVNULL)
    for _ in range(600):
        try:
            asyncio.run(load(bodies_of(bundle)[:1], 1, 3))
            return service
        except OSError:
            time.sleep(0.1)
    service.kill()
    raise RuntimeError("the service did not start within a minute")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 8, 64])
    parser.add_argument("--requests", type=int, default=600)
    options = parser.parse_args()
    bundle = options.run
    if not (bundle / ITEMS).exists():
        bundle = Path("artifacts/serving") / options.run.name
        export([str(options.run), str(bundle), "force=true"])
    bodies = bodies_of(bundle)
    print(f"{'batch':>6}{'clients':>9}{'requests/s':>12}{'p50 ms':>9}{'p99 ms':>9}")
    for batch in BATCHES:
        service = start(bundle, batch)
        try:
            for clients in options.clients:
                rate, seconds = asyncio.run(load(bodies, clients, options.requests))
                cuts = statistics.quantiles(seconds, n=100)
                print(f"{batch:>6}{clients:>9}{rate:>12.0f}{cuts[49] * 1000:>9.1f}{cuts[98] * 1000:>9.1f}", flush=True)
        finally:
            service.terminate()
            service.wait()


if __name__ == "__main__":
    main()
