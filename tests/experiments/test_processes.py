"""Training in two processes on CPU (gloo) takes the steps that one process with twice the batch takes."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from experiments.page import read_columns

ROOT = Path(__file__).resolve().parents[2]
SMALL = [
    "data.num_users=151",
    "train.max_epochs=2",
    "train.validate_every=1",
    "train.accelerator=cpu",
    "model.dropout=0",
]


def finished(name: str, output: Path, *more: str) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Test result and metrics of every epoch."""
    command = [sys.executable, "-m", "experiments.run", name, *SMALL, *more, f"output_dir={output}"]
    done = subprocess.run(command, cwd=ROOT, env={**os.environ}, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr[-3000:]
    (folder,) = {path.parent for path in output.glob("runs/*/*/test.json")}
    return json.loads((folder / "test.json").read_text()), read_columns(folder / "metrics.csv")


@pytest.mark.parametrize("name", ["tiger_tiny"])
def test_the_loss_curve_is_that_of_one_process(name: str, tmp_path: Path) -> None:
    one, alone = finished(name, tmp_path / "one", "sequences.batch_size=64")
    two, shared = finished(name, tmp_path / "two", "sequences.batch_size=32", "train.devices=2", "train.strategy=ddp")
    assert alone["step"].tolist() == shared["step"].tolist()
    # The means of two halves weigh the samples of an odd batch a little differently.
    assert np.allclose(alone["train/loss"], shared["train/loss"], rtol=2e-3)
    assert np.allclose(alone["val/loss"], shared["val/loss"], rtol=2e-3)
    assert one["users"] == two["users"] == 151
    assert abs(one["metrics"]["recall@20"] - two["metrics"]["recall@20"]) < 0.05
