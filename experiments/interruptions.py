"""Training that can be stopped at any batch: SIGTERM and Ctrl-C, checkpoints within an epoch, and going on from them.

A resumed run ends with the numbers of an unbroken one: the data loader goes on behind the last batch
(`datamodules.sequences.BatchLoader`), and random state and running metrics come back from the checkpoint.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from lightning.pytorch.utilities.exceptions import SIGTERMException
from torchmetrics import Metric

from sid.errors import Terminated

KEY = "within_epoch"


class WithinEpoch(Callback):
    """Saves `path` when a scheduler asks the process to end (SIGTERM), and makes checkpoints within an epoch whole.

    In a run of several processes all of them have to get the signal, as they do from SLURM and torchrun.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.resumed: dict[str, Any] | None = None

    def on_save_checkpoint(self, trainer: lightning.Trainer, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        checkpoint[KEY] = {
            "rng": torch.get_rng_state(),
            "cuda_rng": torch.cuda.get_rng_state(pl_module.device) if pl_module.device.type == "cuda" else None,
            "metrics": {name: metric.metric_state for name, metric in metrics(pl_module)},
            "loader": loader.state_dict() if (loader := stateful(trainer)) else None,
        }

    def on_load_checkpoint(self, trainer: lightning.Trainer, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        self.resumed = checkpoint.get(KEY)

    def on_train_start(self, trainer: lightning.Trainer, pl_module: Any) -> None:
        if not (trainer.fit_loop.restarted_mid_epoch and self.resumed):
            return
        # Lightning does so too, but not where a schedule has asked for the loader before the checkpoint was read.
        if loader := stateful(trainer):
            loader.load_state_dict(self.resumed["loader"])
        torch.set_rng_state(self.resumed["rng"].cpu())
        if self.resumed["cuda_rng"] is not None and pl_module.device.type == "cuda":
            torch.cuda.set_rng_state(self.resumed["cuda_rng"].cpu(), pl_module.device)
        for name, metric in metrics(pl_module):
            for state, value in self.resumed["metrics"].get(name, {}).items():
                setattr(metric, state, value.to(pl_module.device))

    def on_exception(self, trainer: lightning.Trainer, pl_module: Any, exception: BaseException) -> None:
        done = trainer.fit_loop.epoch_loop.batch_progress
        if trainer.training and isinstance(exception, SIGTERMException) and not done.is_last_batch:
            trainer.save_checkpoint(self.path)


def stateful(trainer: lightning.Trainer) -> Any:
    """The training loader where it can go on within a pass."""
    loader = trainer.train_dataloader
    return loader if hasattr(loader, "load_state_dict") else None


def metrics(module: Any) -> Iterator[tuple[str, Metric]]:
    """The running metrics of a module, by name."""
    return ((name, part) for name, part in module.named_modules() if isinstance(part, Metric))


class TimedCheckpoint(ModelCheckpoint):
    """Saves `path` after every so many minutes of training, within an epoch as well; never at its last batch, as going
    on from there Lightning would leave the validation out."""

    def __init__(self, path: Path, minutes: float) -> None:
        every = timedelta(minutes=minutes)
        super().__init__(path.parent, path.stem, train_time_interval=every, enable_version_counter=False)

    def on_train_batch_end(self, trainer: lightning.Trainer, *arguments: Any) -> None:
        if not trainer.is_last_batch:
            super().on_train_batch_end(trainer, *arguments)


@contextmanager
def stoppable(trainer: lightning.Trainer) -> Iterator[None]:
    """Lightning turns Ctrl-C and SIGTERM into exits of its own; here they are a KeyboardInterrupt and `Terminated`."""
    try:
        yield
    except SystemExit as error:
        raise (Terminated if trainer.received_sigterm else KeyboardInterrupt) from error
    if trainer.interrupted:
        raise KeyboardInterrupt
