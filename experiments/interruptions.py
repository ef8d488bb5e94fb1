"""Training that can be stopped at any batch: SIGTERM and Ctrl-C, checkpoints within an epoch, and going on from them.

A resumed run ends with the numbers of an unbroken one: the data loader goes on behind the last batch
(`datamodules.sequences.BatchLoader`), and random state and running metrics come back from the checkpoint.
"""

import signal
import threading
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
AGREE_EVERY = 8
"""Batches after which several processes ask one another, as that waits for the device."""


class WithinEpoch(Callback):
    """Ends the training after a batch where a scheduler asks for it (SIGTERM), and makes checkpoints within an epoch
    whole. `path` is saved first, but not after the last batch of an epoch: the end of the epoch comes before.

    With several processes it is enough that one of them gets the signal; they agree on it every few batches.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.asked = False
        self.resumed: dict[str, Any] | None = None

    def on_save_checkpoint(self, trainer: lightning.Trainer, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        mine = {
            "rng": torch.get_rng_state(),
            "cuda_rng": torch.cuda.get_rng_state(pl_module.device) if pl_module.device.type == "cuda" else None,
            "metrics": {name: dict(metric.metric_state) for name, metric in metrics(pl_module)},
        }
        ranks: list[Any] = [mine] * trainer.world_size
        if trainer.world_size > 1:
            torch.distributed.all_gather_object(ranks, mine)
        checkpoint[KEY] = {"ranks": ranks, "loader": loader.state_dict() if (loader := stateful(trainer)) else None}

    def on_load_checkpoint(self, trainer: lightning.Trainer, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        self.resumed = checkpoint.get(KEY)

    def on_train_start(self, trainer: lightning.Trainer, pl_module: Any) -> None:
        # Lightning's own handler talks to the other processes from within a step, and hangs.
        on_sigterm(self._note)
        if not (trainer.fit_loop.restarted_mid_epoch and self.resumed):
            return
        # Lightning does so too, but not where a schedule has asked for the loader before the checkpoint was read.
        if loader := stateful(trainer):
            loader.load_state_dict(self.resumed["loader"])
        mine = self.resumed["ranks"][trainer.global_rank % len(self.resumed["ranks"])]
        torch.set_rng_state(mine["rng"].cpu())
        if mine["cuda_rng"] is not None and pl_module.device.type == "cuda":
            torch.cuda.set_rng_state(mine["cuda_rng"].cpu(), pl_module.device)
        for name, metric in metrics(pl_module):
            for state, value in mine["metrics"].get(name, {}).items():
                setattr(metric, state, value.to(pl_module.device))

    def _note(self, *_: Any) -> None:
        self.asked = True

    def on_train_epoch_start(self, trainer: lightning.Trainer, pl_module: Any) -> None:
        """An epoch of one batch has no place within it: the run goes on from its last validation."""
        if trainer.num_training_batches == 1 and self._agreed(trainer, 0):
            raise SIGTERMException

    def on_train_batch_end(
        self, trainer: lightning.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if trainer.is_last_batch or not self._agreed(trainer, batch_idx):
            return
        trainer.save_checkpoint(self.path)
        raise SIGTERMException

    def on_fit_end(self, trainer: lightning.Trainer, pl_module: Any) -> None:
        """A signal to one process in the last batches or the last validation is known to all before they go on."""
        self.asked = self._agreed(trainer, 0)

    def _agreed(self, trainer: lightning.Trainer, batch_idx: int) -> bool:
        if trainer.world_size == 1:
            return self.asked
        if batch_idx % AGREE_EVERY:
            return False
        asked = torch.tensor(float(self.asked), device=trainer.strategy.root_device)
        self.asked = bool(trainer.strategy.reduce(asked, reduce_op="sum") > 0)
        return self.asked


class AtOnce(Callback):
    """SIGTERM ends a test, which has nothing to save, as it ends any process."""

    def on_test_start(self, trainer: lightning.Trainer, pl_module: Any) -> None:
        on_sigterm(signal.SIG_DFL)

    on_validation_start = on_test_start


def on_sigterm(handler: Any) -> None:
    """Python lets only the main thread set one. Lightning puts the old one back at the end."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, handler)


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
        raise (Terminated if isinstance(error, SIGTERMException) else KeyboardInterrupt) from error
    if any(isinstance(one, WithinEpoch) and one.asked for one in trainer.callbacks):  # type: ignore[attr-defined]
        raise Terminated
    if trainer.interrupted:
        raise KeyboardInterrupt
