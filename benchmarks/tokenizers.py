"""Tokenizers at scale: fitted to a sample, then every vector of a mapped file gets its codes, a chunk at a time.

    python -m benchmarks.tokenizers [--items 35000000] [--width 128] [--sample 200000] [--only lsh ...] [--folder /tmp]
        [--device cuda]

The file holds made-up float16 unit vectors around 4,096 centres (TAOBAO-MM's catalogue has 35 M of 128 numbers). Every
tokenizer runs in a process of its own on one thread; its peak memory is what it asked for itself, without the mapped
file, whose pages the system may drop at any time. On another device than the CPU seconds are those of the clock, and
those of faiss, the tree and the random one stay on the CPU.

Legend: N items, B vectors, D width.
"""

import argparse
import multiprocessing
import shutil
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table

from benchmarks.measure import tune_process
from experiments.config import TOKENIZERS
from experiments.tokenize import train
from sid.collisions import collision_rate
from sid.errors import UserError
from sid.table import SIDTable
from sid.tokenizers import CHUNK, Context, assign, drawn

CENTRES, NOISE = 4096, 0.5
SETTINGS = {
    "rqvae": {"epochs": 10},
    "rqkmeans": {},
    "tree": {},
    "lsh": {},
    "opq": {"codebook_sizes": [256] * 4},
    "random": {},
}


def make_vectors(path: Path, num_items: int, width: int) -> None:
    """(N, D) float16 unit vectors around random centres."""
    draws = np.random.default_rng(0)
    centres = draws.normal(size=(CENTRES, width)).astype(np.float32)
    mapped_ND = np.lib.format.open_memmap(path, "w+", np.float16, (num_items, width))
    for start in track(range(0, num_items, CHUNK), f"{num_items:,} vectors", console=Console(stderr=True)):
        rows = min(CHUNK, num_items - start)
        vectors_BD = centres[draws.integers(0, CENTRES, rows)]
        vectors_BD += NOISE * draws.standard_normal((rows, width), dtype=np.float32)
        vectors_BD /= np.linalg.norm(vectors_BD, axis=1, keepdims=True)
        mapped_ND[start : start + rows] = vectors_BD
    mapped_ND.flush()


class PeakMemory(threading.Thread):
    """The largest anonymous memory of this process, looked at every 50 ms."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.gib = 0.0

    def run(self) -> None:
        while True:
            status = Path("/proc/self/status").read_text()
            kib = int(status.split("RssAnon:")[1].split()[0])
            self.gib = max(self.gib, kib / 2**20)
            time.sleep(0.05)


def measure(name: str, path: Path, sample: int, device: str) -> dict[str, float]:
    """Seconds of fitting, items a second, peak memory, collisions."""
    torch.set_num_threads(1)
    peak = PeakMemory()
    peak.start()
    vectors_ND = np.load(path, mmap_mode="r")
    config = TOKENIZERS[name](**SETTINGS[name])  # type: ignore[arg-type]
    rows = drawn(vectors_ND, sample, config.seed)
    context = Context(lambda module, epochs: train(module, epochs, path.parent / name, device), _no_events)
    clock = time.process_time if device == "cpu" else time.perf_counter
    start = clock()
    tokenizer = config.fit(torch.from_numpy(vectors_ND[rows].astype(np.float32)), context)
    fitted = clock()
    codes_NL = assign(tokenizer, vectors_ND, device)
    assigned = clock()
    collisions, held = collision_rate(codes_NL), [codes_NL]
    del codes_NL  # as in the stage, nobody keeps what the table is made from
    counted = clock()
    SIDTable.resolve(held.pop(), tuple(config.codebook_sizes)).save(path.parent / name)
    resolved = clock()
    return {
        "fit": fitted - start,
        "rate": len(vectors_ND) / (assigned - fitted),
        "resolve": resolved - counted,
        "peak": peak.gib,
        "collisions": collisions,
    }


def _no_events() -> torch.Tensor:
    raise NotImplementedError("made-up items have no events")


def main() -> None:
    tune_process()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, default=35_000_000)
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--sample", type=int, default=200_000)
    parser.add_argument("--only", nargs="+", choices=SETTINGS, default=list(SETTINGS))
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(dir=options.folder))
    unit = "CPU-s" if options.device == "cpu" else "s"
    heads = ("tokenizer", f"fit, {unit}", f"items a {unit}", f"resolve and save, {unit}", "peak GiB", "collisions")
    table = Table(*heads, title=f"{options.items:,} x {options.width} float16, fitted to {options.sample:,}")
    try:
        make_vectors(folder / "vectors.npy", options.items, options.width)
        for name in options.only:
            (folder / name).mkdir()
            with multiprocessing.get_context("spawn").Pool(1) as pool:
                try:
                    found = pool.apply(measure, (name, folder / "vectors.npy", options.sample, options.device))
                except UserError as error:
                    raise SystemExit(f"error: {name}: {error}") from error
            cells = f"{found['fit']:.1f}", f"{found['rate']:,.0f}", f"{found['resolve']:.1f}"
            table.add_row(name, *cells, f"{found['peak']:.2f}", f"{found['collisions']:.1%}")
            Console().print(table)
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
