"""How speed is measured: CPU-seconds of one thread, contenders interleaved in rounds, ratios taken within a round.

Wall time on a shared machine moves 2-5 times from run to run, the CPU time of one thread about 8%, and the ratio of two
contenders that ran one after the other less than that.
"""

import os
import sys
import time
from collections.abc import Callable
from statistics import median
from typing import NamedTuple

import torch
from torch.utils.flop_counter import FlopCounterMode

TUNED = {
    "MALLOC_MMAP_THRESHOLD_": "4294967296",
    "MALLOC_TRIM_THRESHOLD_": "34359738368",
    "OMP_NUM_THREADS": "1",
}
"""glibc's defaults give large temporary tensors back to the system and fault their pages in again: half the time."""


class Work(NamedTuple):
    """What one contender did in one round."""

    amount: int
    """Samples or users."""
    cpu_seconds: float

    @property
    def rate(self) -> float:
        return self.amount / self.cpu_seconds


class Ratio(NamedTuple):
    """Median, least and greatest of the per-round ratios of two rates."""

    median: float
    low: float
    high: float


def tune_process() -> None:
    """Starts this command again with `TUNED` where its environment lacks it: glibc reads it when a process starts."""
    if any(os.environ.get(name) != value for name, value in TUNED.items()):
        os.execve(sys.executable, sys.orig_argv, {**os.environ, **TUNED})
    torch.set_num_threads(1)


def timed(job: Callable[[], int]) -> Work:
    """Runs a job that returns how much it did."""
    start = time.process_time()
    amount = job()
    return Work(amount, time.process_time() - start)


def operations(job: Callable[[], Work]) -> float:
    """Floating-point operations of the matrix products for one sample or user; 0 for a job of another process."""
    with FlopCounterMode(display=False) as counter:
        amount = job().amount
    return float(counter.get_total_flops() / amount)


def interleave(
    contenders: dict[str, Callable[[], Work]], rounds: int, note: Callable[[str], None]
) -> dict[str, list[float]]:
    """Rates of every contender in every round. A first round only warms up; the order turns by one a round.

    The GEMM anchor of each round stands beside them under the name "GEMM", in GFLOP per CPU-second.
    """
    rates: dict[str, list[float]] = {name: [] for name in (*contenders, "GEMM")}
    names = list(contenders)
    for turn in range(rounds + 1):
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            note(f"round {turn} of {rounds}: {name}")
            rate = contenders[name]().rate
            if turn:
                rates[name].append(rate)
        if turn:
            rates["GEMM"].append(gemm(torch.float32))
    return rates


def ratio(ours: list[float], theirs: list[float]) -> Ratio:
    per_round = [a / b for a, b in zip(ours, theirs, strict=True)]
    return Ratio(median(per_round), min(per_round), max(per_round))


def gemm(dtype: torch.dtype, size: int = 1024, repeats: int = 8) -> float:
    """GFLOP per CPU-second of a square matrix product: what the core gives at this moment."""
    a = torch.randn(size, size).to(dtype)
    a @ a
    work = timed(lambda: [a @ a for _ in range(repeats)].__len__())
    return 2 * size**3 * work.rate / 1e9


def copy_bandwidth(mebibytes: int = 256) -> float:
    """GB per CPU-second of a large copy, bytes read and written."""
    a = torch.ones(mebibytes << 18)
    b = torch.empty_like(a)
    b.copy_(a)
    return 2 * a.nbytes * timed(lambda: [b.copy_(a) for _ in range(4)].__len__()).rate / 1e9


def machine() -> dict[str, float | str]:
    """The anchors, printed with every result; bfloat16 where there are instructions for it."""
    from benchmarks.ours import kinds  # not where cornac lives

    types = {name: torch.bfloat16 if bf16 else torch.float32 for name, bf16 in kinds().items()}
    return {
        **{f"gemm_{name}_gflops": round(gemm(dtype), 1) for name, dtype in types.items()},
        "copy_gb_s": round(copy_bandwidth(), 1),
        "load_1min": round(os.getloadavg()[0], 2),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }
