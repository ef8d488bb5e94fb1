"""One trial of a sweep after the other: drawn by Optuna, run as an ordinary training, given up where it is hopeless."""

import itertools
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import lightning
import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState

from experiments.config import override
from experiments.named import named
from experiments.page import read_columns
from experiments.pipeline import Pipeline
from experiments.sweep import LOG
from experiments.sweep_space import Sweep, drawn
from sid.errors import UserError

SEED = 1


class Watch(lightning.Callback):
    """Tells a trial every validation; hyperband may end it there."""

    def __init__(self, trial: optuna.Trial, metric: str) -> None:
        self.trial, self.metric = trial, metric

    def on_validation_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        value = trainer.callback_metrics.get(self.metric)
        if value is None:
            known = ", ".join(sorted(name for name in trainer.callback_metrics if name.startswith("val/")))
            raise UserError(f"metric.name={self.metric}: expected one of {known}")
        self.trial.report(float(value), (trainer.current_epoch + 1) // (trainer.check_val_every_n_epoch or 1))
        if self.trial.should_prune():
            raise optuna.TrialPruned


def open_study(sweep: Sweep, folder: Path, worker: int) -> optuna.Study:
    """The trials so far, whoever has run them. Every worker draws differently."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    sampler: optuna.samplers.BaseSampler = optuna.samplers.RandomSampler(seed=SEED + worker)
    if sweep.method == "bayes":
        sampler = optuna.samplers.TPESampler(seed=SEED + worker, n_startup_trials=max(4, sweep.cap // 4))
    pruner: optuna.pruners.BasePruner = optuna.pruners.NopPruner()
    if sweep.least:
        pruner = optuna.pruners.HyperbandPruner(sweep.least, "auto", sweep.eta)
    return optuna.create_study(
        storage=JournalStorage(JournalFileBackend(str(folder / LOG))),
        study_name=sweep.name,
        sampler=sampler,
        pruner=pruner,
        direction="maximize" if sweep.maximise else "minimize",
        load_if_exists=True,
    )


def ended(trial: FrozenTrial) -> bool:
    """Whether a trial has come to a result; one that was killed has not."""
    return trial.state in (TrialState.COMPLETE, TrialState.PRUNED) or "problem" in trial.user_attrs


def queue(study: optuna.Study, sweep: Sweep) -> None:
    """Queues the trials that were killed, whose trainings go on from their checkpoints, and all of a grid."""
    trials = study.get_trials(deepcopy=False)
    for trial in trials:
        if trial.state == TrialState.RUNNING:
            study.tell(trial.number, state=TrialState.FAIL)
    queued = [trial.system_attrs.get("fixed_params") for trial in trials if trial.state == TrialState.WAITING]
    settled = [trial.params for trial in trials if ended(trial)] + queued
    wanted = [trial.params for trial in trials if not ended(trial) and trial.state != TrialState.WAITING]
    if sweep.method == "grid":
        wanted += grid(sweep)
    for params in wanted:
        if params not in settled:
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
    save: Callable[[], object] = lambda: None,
) -> None:
    """Trials until there are enough, those of other workers counted."""

    def started() -> int:
        trials = study.get_trials(deepcopy=False)
        return sum(ended(trial) or trial.state == TrialState.RUNNING for trial in trials)

    while started() < sweep.cap:
        study.optimize(lambda trial: attempt(trial, sweep, name, overrides), n_trials=1, catch=(Exception,))
        save()


def attempt(trial: optuna.Trial, sweep: Sweep, name: str, overrides: Sequence[str]) -> float:
    """The best validation of one trial. What goes wrong is noted, and raised."""
    values = drawn(trial, sweep)
    assignments = [f"{key}={value}" for key, value in values.items()]
    trial.set_user_attr("values", values)
    print(f"[{trial.number + 1}] {name} {' '.join(assignments)}")
    try:
        config = override(named(name), [*overrides, *assignments])
        pipeline = Pipeline(config, say=lambda line: None, watchers=[Watch(trial, sweep.metric)])
        trial.set_user_attr("folder", str(pipeline.train.folder))
        pipeline.run("train", lambda *figures: None)
    except optuna.TrialPruned:
        print(f"[{trial.number + 1}] given up")
        raise
    except Exception as error:
        if not isinstance(error, UserError):
            traceback.print_exc()
        trial.set_user_attr("problem", str(error).partition("\n")[0] or type(error).__name__)
        print(f"[{trial.number + 1}] failed: {trial.user_attrs['problem']}")
        raise
    note(trial, pipeline.figures["train"])
    found = best(pipeline.train.folder, sweep)
    print(f"[{trial.number + 1}] {sweep.metric} {found:.4f}")
    return found


def note(trial: optuna.Trial, figures: dict[str, Any]) -> None:
    for name in ("parameters", "epochs", "seconds", "cpu_seconds"):
        trial.set_user_attr(name, figures[name])


def best(run: Path, sweep: Sweep) -> float:
    """The best validation in a run's metrics.csv. Raises UserError where it has no such column."""
    columns = read_columns(run / "metrics.csv")
    if sweep.metric not in columns:
        known = ", ".join(name for name in columns if name.startswith("val/"))
        raise UserError(f"metric.name={sweep.metric}: expected one of {known}")
    values = [float(value) for value in columns[sweep.metric] if value == value]
    return max(values) if sweep.maximise else min(values)
