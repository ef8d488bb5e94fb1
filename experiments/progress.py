"""What a trainer tells of its progress: a bar on a terminal, a line now and then in a log file."""

import time
from typing import Any

import lightning
from lightning.pytorch.callbacks import ProgressBar, RichProgressBar

from experiments.page import count, duration

WITHIN, BETWEEN = 300.0, 30.0
"""Seconds from line to line, at least: within an epoch or an evaluation, and at the ends of epochs."""


def progress_bar() -> ProgressBar:
    """A bar if the output is a terminal or a notebook. A file would keep nothing of a bar before its end."""
    from rich.console import Console

    console = Console()
    return RichProgressBar(leave=False) if console.is_terminal or console.is_jupyter else LogLines()


class LogLines(ProgressBar):
    """Prints lines such as `epoch 3 of 18: train/loss 2.569; 12 min so far, about 62 min left`, and none in what takes
    seconds. What is left is reckoned from what this process has done, validations included."""

    def __init__(self) -> None:
        super().__init__()
        self._shown = True
        self._start = self._last = time.perf_counter()
        self._epochs_before: float | None = None
        self._metrics_before: dict[str, Any] = {}

    def enable(self) -> None:
        self._shown = True

    def disable(self) -> None:
        """Lightning does so on all processes but the first."""
        self._shown = False

    def on_train_start(self, trainer: lightning.Trainer, *_: Any) -> None:
        self._start = self._last = time.perf_counter()

    def on_train_epoch_start(self, trainer: lightning.Trainer, *_: Any) -> None:
        self._metrics_before = dict(trainer.callback_metrics)

    def on_train_batch_end(self, trainer: lightning.Trainer, *args: Any) -> None:
        batch, batches = args[3] + 1, int(trainer.num_training_batches)
        if self._epochs_before is None:
            self._epochs_before = trainer.current_epoch + (batch - 1) / batches
        if batch < batches and self._due(WITHIN):
            place = f"batch {count(batch)} of {count(batches)}"
            self._tell(trainer, place, trainer.current_epoch + batch / batches)

    def on_validation_batch_end(self, trainer: lightning.Trainer, *args: Any) -> None:
        self._tell_evaluated("validation", args[3] + 1, sum(trainer.num_val_batches))

    def on_train_epoch_end(self, trainer: lightning.Trainer, *_: Any) -> None:
        # On every process: to read a metric may be to gather it. The trainer keeps those of earlier epochs.
        known, before = trainer.callback_metrics, self._metrics_before
        fresh = [name for name in trainer.progress_bar_metrics if known[name] is not before.get(name)]
        if self._due(BETWEEN):
            measured = ", ".join(f"{name} {float(known[name]):.4g}" for name in fresh)
            self._tell(trainer, measured, trainer.current_epoch + 1)

    def on_test_batch_end(self, trainer: lightning.Trainer, *args: Any) -> None:
        self._tell_evaluated("test", args[3] + 1, sum(trainer.num_test_batches))

    def _due(self, seconds: float) -> bool:
        return self._shown and time.perf_counter() - self._last >= seconds

    def _tell(self, trainer: lightning.Trainer, what: str, epochs: float) -> None:
        self._last, last = time.perf_counter(), trainer.max_epochs or 0
        gone, done = self._last - self._start, epochs - (self._epochs_before or 0.0)
        times = f"{duration(gone)} so far, about {duration(gone / done * (last - epochs))} left"
        before = "pretraining, " if getattr(trainer.lightning_module, "pretraining", False) else ""
        print(f"{before}epoch {trainer.current_epoch + 1} of {last}: {what}; {times}", flush=True)

    def _tell_evaluated(self, what: str, batch: int, batches: float) -> None:
        if batch < batches and self._due(WITHIN):
            self._last = time.perf_counter()
            print(f"{what}: batch {count(batch)} of {count(batches)}", flush=True)
