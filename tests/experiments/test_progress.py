"""What a log file shows of a training, under a clock of our own."""

import io
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lightning
import pytest
import rich.console
import torch
from lightning.pytorch.callbacks import RichProgressBar
from torch import Tensor
from torch.utils.data import DataLoader

from experiments.progress import LogLines, progress_bar


class Worker(lightning.LightningModule):
    """A training step takes `step` seconds, one of an evaluation as long."""

    def __init__(self, step: float) -> None:
        super().__init__()
        self.step, self.now, self.weight = step, 1000.0, torch.nn.Parameter(torch.ones(1))

    def training_step(self, batch: Tensor) -> Tensor:
        self.now += self.step
        if not self.current_epoch:
            self.log("first", 7.0, on_step=False, on_epoch=True, prog_bar=True)
        self.log("train/loss", 1.0 + self.current_epoch, on_step=False, on_epoch=True, prog_bar=True)
        return self.weight.sum()

    def validation_step(self, batch: Tensor) -> None:
        self.now += self.step
        self.log("val/loss", 0.5 + self.current_epoch, prog_bar=True)

    def test_step(self, batch: Tensor) -> None:
        self.now += self.step

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def trainer_of(worker: Worker, monkeypatch: pytest.MonkeyPatch, epochs: int) -> lightning.Trainer:
    """Validates after every second epoch."""
    monkeypatch.setattr("experiments.progress.time", SimpleNamespace(perf_counter=lambda: worker.now))
    return lightning.Trainer(
        accelerator="cpu",
        max_epochs=epochs,
        check_val_every_n_epoch=2,
        num_sanity_val_steps=0,
        callbacks=[LogLines()],
        logger=False,
        enable_checkpointing=False,
        enable_model_summary=False,
    )


def batches(number: int) -> DataLoader[Any]:
    return DataLoader(torch.zeros(number, 1))


def lines_of(text: str) -> list[str]:
    return [line for line in text.splitlines() if line.startswith(("epoch", "pretraining", "validation", "test"))]


def test_an_epoch_has_a_line_with_what_was_measured_in_it(monkeypatch, capsys):
    worker = Worker(step=10)
    trainer_of(worker, monkeypatch, 3).fit(worker, batches(5), batches(1))
    assert lines_of(capsys.readouterr().out) == [
        "epoch 1 of 3: first 7, train/loss 1; 50 s so far, about 100 s left",
        "epoch 2 of 3: train/loss 2, val/loss 1.5; 110 s so far, about 55 s left",
        "epoch 3 of 3: train/loss 3; 3 min so far, about 0 s left",
    ]


def test_a_long_epoch_and_long_evaluations_have_lines_within(monkeypatch, capsys):
    worker = Worker(step=100)
    trainer = trainer_of(worker, monkeypatch, 2)
    trainer.fit(worker, batches(8), batches(4))
    trainer.test(worker, batches(7))
    assert lines_of(capsys.readouterr().out) == [
        "epoch 1 of 2: batch 3 of 8; 5 min so far, about 22 min left",
        "epoch 1 of 2: batch 6 of 8; 10 min so far, about 17 min left",
        "epoch 1 of 2: first 7, train/loss 1; 13 min so far, about 13 min left",
        "epoch 2 of 2: batch 3 of 8; 18 min so far, about 8 min left",
        "epoch 2 of 2: batch 6 of 8; 23 min so far, about 3 min left",
        "validation: batch 1 of 4",
        "epoch 2 of 2: train/loss 2, val/loss 1.5; 33 min so far, about 0 s left",
        "test: batch 3 of 7",
        "test: batch 6 of 7",
    ]


def test_a_run_of_seconds_prints_nothing(monkeypatch, capsys):
    worker = Worker(step=0.1)
    trainer = trainer_of(worker, monkeypatch, 20)
    trainer.fit(worker, batches(5), batches(1))
    trainer.test(worker, batches(5))
    assert lines_of(capsys.readouterr().out) == []


def test_a_resumed_run_reckons_from_its_own_epochs(tmp_path: Path, monkeypatch, capsys):
    worker = Worker(step=1000)
    trainer = trainer_of(worker, monkeypatch, 2)
    trainer.fit(worker, batches(5), batches(1))
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    capsys.readouterr()
    worker = Worker(step=10)
    trainer_of(worker, monkeypatch, 4).fit(worker, batches(5), batches(1), ckpt_path=tmp_path / "last.ckpt")
    assert lines_of(capsys.readouterr().out) == [
        "epoch 3 of 4: train/loss 3; 50 s so far, about 50 s left",
        "epoch 4 of 4: train/loss 4, val/loss 3.5; 110 s so far, about 0 s left",
    ]


def test_a_run_that_is_resumed_within_an_epoch_reckons_from_there(tmp_path: Path, monkeypatch, capsys):
    """Half the first epoch was done, the other half takes 160 s, and so the second one 320."""
    worker, path = Worker(step=40), tmp_path / "within.ckpt"
    save = lightning.pytorch.callbacks.LambdaCallback(
        on_train_batch_end=lambda trainer, *args: trainer.save_checkpoint(path) if args[3] == 3 else None
    )
    trainer = trainer_of(worker, monkeypatch, 1)
    trainer.callbacks.append(save)
    trainer.fit(worker, batches(8), batches(1))
    capsys.readouterr()
    worker = Worker(step=40)
    trainer_of(worker, monkeypatch, 2).fit(worker, batches(8), batches(1), ckpt_path=path)
    assert lines_of(capsys.readouterr().out)[0].endswith("3 min so far, about 5 min left")


def test_the_lines_of_a_pretraining_say_so(monkeypatch, capsys):
    worker = Worker(step=100)
    worker.pretraining = True
    trainer_of(worker, monkeypatch, 1).fit(worker, batches(8), batches(1))
    lines = lines_of(capsys.readouterr().out)
    assert lines and all(line.startswith("pretraining, epoch 1 of 1: ") for line in lines)


def test_only_the_first_process_speaks(monkeypatch, capsys):
    worker = Worker(step=100)
    trainer = trainer_of(worker, monkeypatch, 2)
    monkeypatch.setattr(type(trainer), "is_global_zero", False)
    trainer.fit(worker, batches(8), batches(4))
    assert lines_of(capsys.readouterr().out) == []


@pytest.mark.parametrize(("terminal", "kind"), [(True, RichProgressBar), (False, LogLines)])
def test_a_terminal_has_a_bar(terminal, kind, monkeypatch):
    console = rich.console.Console(file=io.StringIO(), force_terminal=terminal)
    monkeypatch.setattr("rich.console.Console", lambda: console)
    assert isinstance(progress_bar(), kind)


def test_a_command_writes_each_line_at_once_into_a_file():
    """A process that ends without a word leaves what it has written so far."""
    work = "lambda arguments: (print('train: working'), os._exit(0))"
    program = f"import os; from experiments.run import answer; answer(['name'], '', {work})"
    buffered = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, env=buffered)
    assert done.stdout == "train: working\n"
