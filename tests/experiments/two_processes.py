"""Training in two processes on CPU (gloo) takes the steps that one process with twice the batch takes: what
`test_ddp.py`, `test_fsdp.py` and `test_fsdp_parts.py` check, in files of their own so that they run side by side."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import lightning
import numpy as np

from experiments import pipeline
from experiments.page import read_columns
from experiments.run import main
from tests.experiments.small import FEW_BEAMS, beside
from tests.forked import Started

ROOT = Path(__file__).resolve().parents[2]
TRACED = {**os.environ, "PYTHONFAULTHANDLER": "1"}
"""Where a process was, should it abort."""
SMALL = [
    "data.num_users=75",
    "train.max_epochs=2",
    "train.validate_every=1",
    "train.accelerator=cpu",
    "model.dropout=0",
    *FEW_BEAMS,
]


def arguments_of(output: Path, *more: str) -> list[str]:
    return ["tiger_tiny", *SMALL, *more, f"output_dir={output}"]


def command_of(output: Path, *more: str) -> list[str]:
    return [sys.executable, "-m", "experiments.run", *arguments_of(output, *more)]


def commanded(output: Path, *more: str) -> None:
    """One command, which starts the second process."""
    done = subprocess.run(command_of(output, *more), cwd=ROOT, env=TRACED, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, told(done.stderr)


def interrupt_command(command: list[str], ready: Callable[[], bool]) -> None:
    """SIGTERM to both processes of one command, as a scheduler sends it."""
    running = subprocess.Popen(command, cwd=ROOT, env=TRACED, start_new_session=True, stderr=subprocess.PIPE, text=True)
    try:
        while running.poll() is None and not ready():
            time.sleep(0.02)
        os.killpg(running.pid, signal.SIGTERM)
        _, errors = running.communicate(timeout=120)
    finally:
        running.kill()
    assert running.returncode == 143, told(errors)


def started(work: Callable[..., Any], output: Path, *arguments: Any) -> Started:
    """Two processes as torchrun starts them."""
    return Started(work, *arguments, errors=output.with_name(f"{output.name}.err"), ranks=2)


class SignalInTheLastValidation(lightning.Callback):
    """To the second process alone."""

    def on_validation_start(self, trainer: lightning.Trainer, pl_module: Any) -> None:
        if trainer.current_epoch + 1 == trainer.max_epochs and trainer.global_rank == 1:
            os.kill(os.getpid(), signal.SIGTERM)


def watched(arguments: list[str], watcher: lightning.Callback) -> int:
    """The command in a process of its own, whose training is watched."""
    pipeline.Pipeline = partial(pipeline.Pipeline, watchers=[watcher])  # type: ignore[assignment, misc]
    return main(arguments)


def finished(output: Path, *more: str) -> None:
    two = started(main, output, arguments_of(output, *more))
    assert two.wait() == [0, 0], told(two.said())


def left(output: Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Test result and metrics of every epoch."""
    (folder,) = {path.parent for path in output.glob("runs/*/*/test.json")}
    return json.loads((folder / "test.json").read_text()), read_columns(folder / "metrics.csv")


def told(errors: str) -> str:
    """Start and end of what the processes wrote, without the long line of modules that comes with an abort. The one
    that fails first is heard first; the end is the other's complaint that it has gone."""
    text = "\n".join(line for line in errors.splitlines() if not line.startswith("Extension modules:"))
    return text if len(text) < 8000 else f"{text[:4000]}\n[...]\n{text[-4000:]}"


def two_processes(strategy: str) -> list[str]:
    return ["sequences.batch_size=32", "train.devices=2", f"train.strategy={strategy}"]


def check_curve(strategy: str, tmp_path: Path, *more: str) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """The loss curve is that of one process; test result and metrics of two."""
    assert main(arguments_of(tmp_path / "one", "sequences.batch_size=64", *more)) == 0
    if strategy == "ddp":  # builds its stages, too
        commanded(tmp_path / "two", *two_processes(strategy), *more)
    else:
        finished(beside(tmp_path / "one", tmp_path / "two"), *two_processes(strategy), *more)
    (one, alone), (two, shared) = left(tmp_path / "one"), left(tmp_path / "two")
    assert alone["step"].tolist() == shared["step"].tolist()
    # The means of two halves weigh the samples of an odd batch a little differently.
    assert np.allclose(alone["train/loss"], shared["train/loss"], rtol=2e-3)
    assert np.allclose(alone["val/loss"], shared["val/loss"], rtol=2e-3)
    assert one["users"] == two["users"] == 75
    assert abs(one["metrics"]["recall@20"] - two["metrics"]["recall@20"]) < 0.05
    return two, shared


def check_curve_and_sigterm(strategy: str, tmp_path: Path) -> None:
    """The loss curve is that of one process, and SIGTERM in the middle changes nothing."""
    two, shared = check_curve(strategy, tmp_path)
    often = [*two_processes(strategy), "train.checkpoint_minutes=0.001"]
    ended = beside(tmp_path / "two", tmp_path / "ended")
    last = "runs/*/*/checkpoints/last.ckpt"
    if strategy == "ddp":
        interrupt_command(command_of(ended, *often), lambda: bool(list(ended.glob(last))))
    else:
        running = started(main, ended, arguments_of(ended, *often))
        while running.running and not list(ended.glob(last)):
            time.sleep(0.02)
        running.send(signal.SIGTERM)
        assert running.wait() == [143, 143], told(running.said())
    assert not list(ended.glob("runs/*/*/train.manifest.json")), "the training was over before the signal"
    check_the_rest(ended, often, two, shared)


def check_sigterm_in_the_last_validation(strategy: str, two_at: Path, tmp_path: Path) -> None:
    """All processes end before the test, and what was learnt is kept."""
    ended, processes = beside(two_at, tmp_path / "late"), two_processes(strategy)
    running = started(watched, ended, arguments_of(ended, *processes), SignalInTheLastValidation())
    assert running.wait() == [143, 143], told(running.said())
    assert not list(ended.glob("runs/*/*/test.json"))
    check_the_rest(ended, processes, *left(two_at))


def check_the_rest(ended: Path, more: list[str], two: dict[str, Any], shared: dict[str, np.ndarray]) -> None:
    """The same command comes to the figures of an unbroken run."""
    finished(ended, *more)
    again, resumed = left(ended)
    assert json.dumps(again["metrics"]) == json.dumps(two["metrics"])
    assert resumed["train/loss"].tolist() == shared["train/loss"].tolist()
