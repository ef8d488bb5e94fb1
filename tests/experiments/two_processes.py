"""Training in two processes on CPU (gloo) takes the steps that one process with twice the batch takes: what
`test_ddp.py`, `test_fsdp.py` and `test_fsdp_parts.py` check, in files of their own so that they run side by side."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from experiments.page import read_columns

ROOT = Path(__file__).resolve().parents[2]
TRACED = {**os.environ, "PYTHONFAULTHANDLER": "1"}
"""Where a process was, should it abort."""
SMALL = [
    "data.num_users=151",
    "train.max_epochs=2",
    "train.validate_every=1",
    "train.accelerator=cpu",
    "model.dropout=0",
]


def command_of(name: str, output: Path, *more: str) -> list[str]:
    return [sys.executable, "-m", "experiments.run", name, *SMALL, *more, f"output_dir={output}"]


def finished(name: str, output: Path, *more: str) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Test result and metrics of every epoch."""
    command = command_of(name, output, *more)
    done = subprocess.run(command, cwd=ROOT, env=TRACED, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, told(done.stderr)
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
    one, alone = finished("tiger_tiny", tmp_path / "one", "sequences.batch_size=64", *more)
    two, shared = finished("tiger_tiny", tmp_path / "two", *two_processes(strategy), *more)
    assert alone["step"].tolist() == shared["step"].tolist()
    # The means of two halves weigh the samples of an odd batch a little differently.
    assert np.allclose(alone["train/loss"], shared["train/loss"], rtol=2e-3)
    assert np.allclose(alone["val/loss"], shared["val/loss"], rtol=2e-3)
    assert one["users"] == two["users"] == 151
    assert abs(one["metrics"]["recall@20"] - two["metrics"]["recall@20"]) < 0.05
    return two, shared


def check_curve_and_sigterm(strategy: str, tmp_path: Path) -> None:
    """The loss curve is that of one process, and SIGTERM in the middle changes nothing."""
    two, shared = check_curve(strategy, tmp_path)
    processes = two_processes(strategy)
    (tmp_path / "ended").mkdir()
    (tmp_path / "ended/artifacts").symlink_to(tmp_path / "two/artifacts")
    often = "train.checkpoint_minutes=0.001"
    command = command_of("tiger_tiny", tmp_path / "ended", *processes, often)
    running = subprocess.Popen(command, cwd=ROOT, env=TRACED, start_new_session=True, stderr=subprocess.PIPE, text=True)
    while running.poll() is None and not list(tmp_path.glob("ended/runs/*/*/checkpoints/last.ckpt")):
        time.sleep(0.02)
    os.killpg(running.pid, signal.SIGTERM)
    _, errors = running.communicate(timeout=120)
    assert running.returncode == 143, told(errors)
    assert not list(tmp_path.glob("ended/runs/*/*/train.manifest.json")), "the training was over before the signal"
    again, resumed = finished("tiger_tiny", tmp_path / "ended", *processes, often)
    assert json.dumps(again["metrics"]) == json.dumps(two["metrics"])
    assert resumed["train/loss"].tolist() == shared["train/loss"].tolist()
