"""The columns of metrics.csv that count time, under a clock of our own."""

import csv
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lightning
import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from callbacks.history import History


class Clock:
    """Both of a process's clocks: an hour after it started, CPU time runs twice as fast as that of the wall."""

    def __init__(self) -> None:
        self.now = 3600.0

    def perf_counter(self) -> float:
        return self.now

    def process_time(self) -> float:
        return 2 * self.now


class Worker(lightning.LightningModule):
    """A training step takes a second, a validation step a hundred, and what comes before training a thousand."""

    def __init__(self, clock: Clock) -> None:
        super().__init__()
        self.clock, self.weight = clock, torch.nn.Parameter(torch.ones(1))

    def on_fit_start(self) -> None:
        self.clock.now += 1000

    def training_step(self, batch: Tensor) -> Tensor:
        self.clock.now += 1
        return self.weight.sum()

    def validation_step(self, batch: Tensor) -> None:
        self.clock.now += 100

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.1)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    times = SimpleNamespace(perf_counter=clock.perf_counter, process_time=clock.process_time)
    monkeypatch.setattr("callbacks.history.time", times)
    return clock


def fit(path: Path, clock: Clock, epochs: int, resume: Path | None = None) -> lightning.Trainer:
    """Three training and two validation steps an epoch; an odd epoch, counted from 1, has no validation."""
    trainer = lightning.Trainer(
        accelerator="cpu",
        max_epochs=epochs,
        check_val_every_n_epoch=2,
        num_sanity_val_steps=0,
        callbacks=[History(path)],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=path.parent,
    )
    training, validation = (DataLoader(torch.zeros(n, 1)) for n in (3, 2))
    trainer.fit(Worker(clock), training, validation, ckpt_path=resume)
    return trainer


def column(path: Path, name: str) -> list[float]:
    return [float(row[name]) for row in csv.DictReader(path.open())]


def test_cpu_seconds_count_the_training_alone_and_seconds_the_validations_too(tmp_path: Path, clock: Clock) -> None:
    fit(tmp_path / "metrics.csv", clock, epochs=4)
    # Each epoch trains for 3 s of the wall, 6 s of the CPU; the second and fourth validate for 200 s.
    assert column(tmp_path / "metrics.csv", "cpu_seconds") == [6, 12, 18, 24]
    assert column(tmp_path / "metrics.csv", "seconds") == [3, 206, 209, 412]
    assert column(tmp_path / "metrics.csv", "epoch") == [1, 2, 3, 4]


@pytest.mark.parametrize("epochs", [1, 2])
def test_a_resumed_run_counts_on_and_leaves_the_pause_out(tmp_path: Path, clock: Clock, epochs: int) -> None:
    first, whole = tmp_path / "first.csv", tmp_path / "whole.csv"
    fit(first, clock, epochs).save_checkpoint(tmp_path / "last.ckpt")
    clock.now = 50.0  # another process
    fit(whole, clock, 4, tmp_path / "last.ckpt")
    assert column(whole, "cpu_seconds") == [6, 12, 18, 24]
    assert column(whole, "seconds") == [3, 206, 209, 412]
