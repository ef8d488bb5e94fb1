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
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow.parquet as pq

from experiments.export import export
from serving.bundle import EXAMPLES, ITEMS

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


async def client(port: int, bodies: list[bytes], left: list[int], seconds: list[float]) -> None:
    """Asks until nothing is left to ask."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    while left[0]:
        left[0] -= 1
        start = time.perf_counter()
        status = await ask(random.choice(bodies), reader, writer)
        if status != 200:
            raise RuntimeError(f"status {status}")
        seconds.append(time.perf_counter() - start)
    writer.close()


async def load(port: int, bodies: list[bytes], clients: int, requests: int) -> tuple[float, list[float]]:
    """Requests a second, and how long each of them took."""
    left, seconds = [requests], []
    start = time.perf_counter()
    await asyncio.gather(*(client(port, bodies, left, seconds) for _ in range(clients)))
    return requests / (time.perf_counter() - start), seconds


def bodies_of(bundle: Path) -> list[bytes]:
    raw_ids = pq.read_table(bundle / ITEMS)["item"].to_pylist()
    histories = pq.read_table(bundle / EXAMPLES)["history"].to_pylist()
    if not histories:
        raise SystemExit(f"{bundle} has no examples to ask about; export it again with examples=true")
    return [json.dumps({"history": [raw_ids[item] for item in history]}).encode() for history in histories]


@contextmanager
def serving(bundle: Path, batch: int, bodies: list[bytes]) -> Iterator[int]:
    """The port of the service, once it answers."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = int(free.getsockname()[1])
    command = [sys.executable, "-m", "experiments.serve", str(bundle), f"port={port}", f"batch={batch}"]
    service = subprocess.Popen(command, env={**os.environ, "OMP_NUM_THREADS": "1"}, stdout=subprocess.DEVNULL)
    try:
        answers = False
        for _ in range(600):
            if service.poll() is not None:
                raise SystemExit(f"the service ended with code {service.returncode}")
            try:
                asyncio.run(load(port, bodies[:1], 1, 3))
                answers = True
                break
            except OSError:
                time.sleep(0.1)
        if not answers:
            raise SystemExit("the service did not start within a minute")
        yield port
    finally:
        service.terminate()
        service.wait()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 8, 64])
    parser.add_argument("--requests", type=int, default=600)
    options = parser.parse_args()
    if options.requests < 2 or min(options.clients) < 1:
        parser.error("--requests: expected at least 2; --clients: at least 1")
    bundle = options.run
    if not (bundle / ITEMS).exists():
        bundle = Path("artifacts/serving") / options.run.name
        export([str(options.run), str(bundle), "force=true"])
    bodies = bodies_of(bundle)
    print(f"{'batch':>6}{'clients':>9}{'requests/s':>12}{'p50 ms':>9}{'p99 ms':>9}")
    for batch in BATCHES:
        with serving(bundle, batch, bodies) as port:
            for clients in options.clients:
                rate, seconds = asyncio.run(load(port, bodies, clients, options.requests))
                cuts = statistics.quantiles(seconds, n=100)
                print(f"{batch:>6}{clients:>9}{rate:>12.0f}{cuts[49] * 1000:>9.1f}{cuts[98] * 1000:>9.1f}", flush=True)


if __name__ == "__main__":
    main()
