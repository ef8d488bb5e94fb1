"""One trial of a sweep after the other: drawn by Optuna, run as an ordinary training, given up where it is hopeless."""

import itertools
import json
import os
import traceback
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import lightning
import optuna
from filelock import FileLock
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState

from callbacks.history import History
from experiments.config import RunConfig
from experiments.named import named
from experiments.overrides import override
from experiments.page import read_columns
from experiments.pipeline import Pipeline
from experiments.stages import finish_wandb
from experiments.sweep_space import Sweep, drawn
from sid.errors import UserError

SEED = 1
LOG = "trials.log"


class NoSuchMetric(UserError):
    """The sweep is judged by something that no validation gives."""


def require_metric(metric: str, given: Iterable[str]) -> None:
    """Raises NoSuchMetric unless the metric is among what validations give."""
    known = sorted(name for name in given if name.startswith("val/"))
    if metric not in known:
        raise NoSuchMetric(f"metric.name={metric}: expected one of {', '.join(known)}")


class Watch(lightning.Callback):
    """Tells a trial every validation, those of before a kill too; hyperband may end it there."""

    def __init__(self, trial: optuna.Trial, metric: str) -> None:
        self.trial, self.metric = trial, metric

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        callbacks: Any = trainer.callbacks  # type: ignore[attr-defined]
        for row in itertools.chain.from_iterable(one.rows for one in callbacks if isinstance(one, History)):
            if self.metric in row:
                self._report(row[self.metric], int(row["epoch"]), trainer)

    def on_validation_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        require_metric(self.metric, trainer.callback_metrics)
        self._report(float(trainer.callback_metrics[self.metric]), trainer.current_epoch + 1, trainer)

    def _report(self, value: float, epoch: int, trainer: lightning.Trainer) -> None:
        self.trial.report(value, epoch // (trainer.check_val_every_n_epoch or 1))
        if self.trial.should_prune():
            raise optuna.TrialPruned


def open_study(sweep: Sweep, folder: Path, worker: int) -> optuna.Study:
    """The trials so far, whoever has run them. Every worker draws differently, and not again what was drawn before."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    pruner: optuna.pruners.BasePruner = optuna.pruners.NopPruner()
    if sweep.least:
        pruner = optuna.pruners.HyperbandPruner(sweep.least, "auto", sweep.eta)
    if not worker:
        cut_unfinished_line(folder / LOG)
    try:
        study = optuna.create_study(
            storage=JournalStorage(JournalFileBackend(str(folder / LOG))),
            study_name=sweep.name,
            pruner=pruner,
            direction="maximize" if sweep.maximise else "minimize",
            load_if_exists=True,
        )
    except json.JSONDecodeError as error:
        raise UserError(f"{folder / LOG} is damaged ({error}). Remove {folder} to start the sweep again.") from error
    seed = SEED + 100_003 * worker + len(study.get_trials(deepcopy=False))
    study.sampler = optuna.samplers.RandomSampler(seed=seed)
    if sweep.method == "bayes":
        study.sampler = optuna.samplers.TPESampler(seed=seed, n_startup_trials=max(4, sweep.cap // 4))
    return study


def cut_unfinished_line(log: Path) -> None:
    """Of a command that was killed as it wrote; Optuna would write on in that line. Nobody may be at work on it."""
    if log.exists() and (whole := log.read_bytes()) and not whole.endswith(b"\n"):
        os.truncate(log, whole.rfind(b"\n") + 1)


def ended(trial: FrozenTrial) -> bool:
    """Whether a trial has come to a result; one that was killed or has failed has not."""
    return trial.state in (TrialState.COMPLETE, TrialState.PRUNED)


def queue(study: optuna.Study, sweep: Sweep) -> None:
    """Queues the trials that were killed or have failed, and all of a grid. Nobody else may be at work on them."""
    trials = study.get_trials(deepcopy=False)
    for trial in trials:
        if trial.state == TrialState.RUNNING:
            study.tell(trial.number, state=TrialState.FAIL)
    given = {trial.number: trial.system_attrs.get("fixed_params", trial.params) for trial in trials}
    settled = [given[trial.number] for trial in trials if ended(trial) or trial.state == TrialState.WAITING]
    wanted = [given[trial.number] for trial in trials if trial.state in (TrialState.RUNNING, TrialState.FAIL)]
    for params in [*wanted, *(grid(sweep) if sweep.method == "grid" else [])]:
        if params and params not in settled:
            study.enqueue_trial(params)
            settled.append(params)


def grid(sweep: Sweep) -> list[dict[str, int]]:
    """Every combination, as places among the values of each key."""
    free = {key: range(len(values)) for key, values in sweep.choices.items() if len(values) > 1}
    return [dict(zip(free, places, strict=True)) for places in itertools.product(*free.values())]


def work(
    study: optuna.Study,
    sweep: Sweep,
    name: str,
    overrides: Sequence[str],
    folder: Path,
    save: Callable[[], object] = lambda: None,
) -> None:
    """Trials until there are enough, those of other workers counted; failures of earlier commands are not."""
    before = {trial.number for trial in study.get_trials(deepcopy=False) if trial.state == TrialState.FAIL}
    while (trial := claimed(study, sweep, folder, before)) is not None:
        try:
            study.tell(trial, attempt(trial, sweep, name, overrides))
        except optuna.TrialPruned:
            print(f"[{trial.number + 1}] given up")
            study.tell(trial, state=TrialState.PRUNED)
        except Exception as error:  # of the user, of memory, of CUDA: the other trials can go on
            if not isinstance(error, UserError):
                traceback.print_exc()
            trial.set_user_attr("problem", str(error).partition("\n")[0] or type(error).__name__)
            print(f"[{trial.number + 1}] failed: {trial.user_attrs['problem']}")
            study.tell(trial, state=TrialState.FAIL)
            if isinstance(error, NoSuchMetric):
                raise
        except KeyboardInterrupt:
            study.tell(trial, state=TrialState.FAIL)
            raise
        save()


def claimed(study: optuna.Study, sweep: Sweep, folder: Path, before: set[int]) -> optuna.Trial | None:
    """The next trial, or None where there are enough. One worker at a time counts and draws."""
    with FileLock(folder / ".draw.lock"):
        trials = study.get_trials(deepcopy=False)
        failed = sum(trial.state == TrialState.FAIL and trial.number not in before for trial in trials)
        started = failed + sum(ended(trial) or trial.state == TrialState.RUNNING for trial in trials)
        return study.ask() if started < sweep.cap else None


def trial_config(name: str, overrides: Sequence[str], values: dict[str, Any]) -> RunConfig:
    """A trial is one process on one device; what it does not read, others may. Raises UserError."""
    assignments = [f"{key}={value}" for key, value in values.items()]
    return override(named(name), [*overrides, *assignments, "train.devices=1", "train.num_nodes=1"], idle=True)


def attempt(trial: optuna.Trial, sweep: Sweep, name: str, overrides: Sequence[str]) -> float:
    """The best validation of one trial."""
    values = drawn(trial, sweep)
    trial.set_user_attr("values", values)
    print(f"[{trial.number + 1}] {name} {' '.join(f'{key}={value}' for key, value in values.items())}")
    config = trial_config(name, overrides, values)
    pipeline = Pipeline(config, say=lambda line: None, watchers=[Watch(trial, sweep.metric)])
    trial.set_user_attr("folder", str(pipeline.train.folder))
    try:
        pipeline.run("train", lambda *figures: None)
    finally:
        finish_wandb()
    for key in ("parameters", "epochs", "seconds", "cpu_seconds"):
        trial.set_user_attr(key, pipeline.figures["train"][key])
    found = best(pipeline.train.folder, sweep)
    print(f"[{trial.number + 1}] {sweep.metric} {found:.4f}")
    return found


def best(run: Path, sweep: Sweep) -> float:
    """The best validation in a run's metrics.csv. Raises NoSuchMetric where it has no such column."""
    columns = read_columns(run / "metrics.csv")
    require_metric(sweep.metric, columns)
    values = [float(value) for value in columns[sweep.metric] if value == value]
    return max(values) if sweep.maximise else min(values)
