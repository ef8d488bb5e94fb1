"""Where an experiment's time goes: every stage from raw files on, beside what its products of matrices cost here.

    python -m benchmarks.stages [NAME] [stage=LAST] [key=value ...]

One thread of a CPU, a folder of its own, each stage twice: timed, with the hashes of what it reads, and again under
torch's counter of operations, which slows small ones and does not see fused attention (3% of the text encoder). "Floor"
is what the products alone would take at the speed of a square one in float32. Default: tiger_beauty where DATA_DIR is
set, else tiger_tiny, and all before the training; how fast it trains and decodes is in `benchmarks.run`.
"""

import importlib
import os
import subprocess
import sys
import time
from tempfile import TemporaryDirectory
from typing import NamedTuple

import torch
from rich.console import Console
from rich.table import Table
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.measure import gemm, machine, timed, tune_process
from experiments.config import RunConfig
from experiments.named import named, require_named
from experiments.overrides import override
from experiments.pipeline import Pipeline
from experiments.run import answer, take
from sid.errors import require

HEAVY = "experiments.training"
"""Imports what every run does: torch, Lightning, torchmetrics."""


def default() -> str:
    """The experiment, where none is named."""
    return "tiger_beauty" if os.environ.get("DATA_DIR") else "tiger_tiny"


class Spent(NamedTuple):
    """What a stage took."""

    seconds: float
    cpu_seconds: float
    operations: float
    """Of its products of matrices."""
    speed: float
    """Operations of a square product a CPU-second, then."""

    def cells(self) -> list[str]:
        floor = self.operations / self.speed
        words = [f"{self.seconds:.1f}", f"{self.cpu_seconds:.1f}", f"{self.operations / 1e9:,.1f}"]
        return [*words, f"{floor:.1f}", f"{floor / self.cpu_seconds:.0%}"]


def start_up() -> tuple[float, float]:
    """Seconds and CPU-seconds until all that a run imports is there."""
    before, start = os.times(), time.perf_counter()
    subprocess.run([sys.executable, "-c", f"import {HEAVY}"], check=True)
    seconds, after = time.perf_counter() - start, os.times()
    user, system = after.children_user - before.children_user, after.children_system - before.children_system
    return seconds, user + system


def spent(config: RunConfig, stage: str) -> Spent:
    """Of one stage, whose parents are there or are made before: it is built, and built again to be counted."""

    def build() -> int:
        Pipeline(config, force=stage, say=lambda line: None).run(stage, lambda *figures: None)
        return 1

    start = time.perf_counter()
    work = timed(build)
    seconds, speed = time.perf_counter() - start, gemm(torch.float32) * 1e9
    with FlopCounterMode(display=False) as counter:
        build()
    return Spent(seconds, work.cpu_seconds, float(counter.get_total_flops()), speed)


def run(arguments: list[str]) -> None:
    own = {"stage": ""}
    given = take(arguments, own)
    name, *overrides = given if given and "=" not in given[0] else [default(), *given]
    require_named(name)
    importlib.import_module(HEAVY)
    console = Console(width=120)
    table = Table("", "seconds", "CPU-seconds", "GFLOP", "floor, CPU-seconds", "floor of it", title=name)
    with TemporaryDirectory() as folder:
        config = override(named(name), ["train.accelerator=cpu", *overrides, f"output_dir={folder}"])
        stages = Pipeline(config).stages
        last = own["stage"] or stages[stages.index("train") - 1]
        require(last in stages, "stage", last, f"one of {', '.join(stages)}")
        table.add_row("start-up", *(f"{number:.1f}" for number in start_up()))
        for stage in stages[: stages.index(last) + 1]:
            table.add_row(stage, *spent(config, stage).cells())
    console.print(machine(), table)


if __name__ == "__main__":
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
    tune_process()
    sys.exit(answer(sys.argv[1:], __doc__ or "", run))
