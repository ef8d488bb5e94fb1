"""The metrics of every epoch as one CSV file."""

import csv
import io
import time
from pathlib import Path
from typing import Any

import lightning


class History(lightning.Callback):
    """Writes `metrics.csv`: one row an epoch with everything that was logged in it.

    The rows travel in the checkpoint, so the file of a resumed run is that of an unbroken one, but for the columns
    `seconds` (wall time so far) and `cpu_seconds` (of all threads of this process, without the validations).
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rows: list[dict[str, float]] = []
        self.seconds, self._mark = 0.0, 0.0
        self.cpu_seconds, self._cpu_mark = 0.0, 0.0
        self._before: dict[str, Any] = {}

    def state_dict(self) -> dict[str, Any]:
        self._count()
        return {"rows": self.rows, "seconds": self.seconds, "cpu_seconds": self.cpu_seconds}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.rows, self.seconds = state_dict["rows"], state_dict["seconds"]
        self.cpu_seconds = state_dict["cpu_seconds"]

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        self._mark, self._cpu_mark = time.perf_counter(), time.process_time()

    def on_validation_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        if not trainer.sanity_checking:
            self._count()

    def on_validation_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        self._cpu_mark = time.process_time()

    def _count(self) -> None:
        """Adds what has gone by since the last count; nothing before the training."""
        if not self._mark:
            return
        now, cpu_now = time.perf_counter(), time.process_time()
        self.seconds, self._mark = self.seconds + now - self._mark, now
        self.cpu_seconds, self._cpu_mark = self.cpu_seconds + cpu_now - self._cpu_mark, cpu_now

    def on_train_epoch_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        self._before = dict(trainer.callback_metrics)

    def on_train_epoch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        self._count()
        row: dict[str, float] = {"epoch": trainer.current_epoch + 1, "step": trainer.global_step}
        row |= {"seconds": round(self.seconds, 1), "cpu_seconds": round(self.cpu_seconds, 1)}
        row["learning_rate"] = trainer.optimizers[0].param_groups[0]["lr"]
        # The trainer keeps values of earlier epochs; what was logged in this one is a new tensor.
        logged = trainer.callback_metrics.items()
        row |= {name: float(value) for name, value in logged if value is not self._before.get(name)}
        self.rows.append(row)
        if trainer.is_global_zero:
            self.write()

    def write(self) -> None:
        """The rows so far as a whole file."""
        columns = list(dict.fromkeys(name for row in self.rows for name in row))
        text = io.StringIO()
        writer = csv.DictWriter(text, columns)
        writer.writeheader()
        writer.writerows(self.rows)
        aside = self.path.with_name(f".{self.path.name}")
        aside.write_text(text.getvalue())
        aside.replace(self.path)
