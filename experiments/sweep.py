"""Trials of one experiment, as a sweep's file in wandb's format asks for them, without a wandb server:

    python -m experiments.sweep NAME SWEEP [jobs=1] [key=value ...]

A trial is an ordinary training (see `experiments.run`), judged on validation users: the test is not read. Stages that
trials have in common are built once. Trials are kept in <output_dir>/sweeps/<name>-<sweep>-<hash>/trials.log, where the
hash is of the sweep's file, the experiment, its raw data and the stages' versions, so a killed sweep goes on, and its
killed trials with it, and what was computed from something else is not taken for it. The table of all is written beside
it as they end.
"""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from filelock import FileLock, Timeout

from experiments.named import named, require_named
from experiments.run import answer, take, wait_passively
from experiments.stages import fingerprint
from experiments.sweep_space import FOLDER, Sweep, find_sweep, read_sweep
from sid.errors import UserError, require

if TYPE_CHECKING:
    from experiments.config import RunConfig

USAGE = """usage: make sweep NAME=<experiment> SWEEP=<sweep> [JOBS=2] [ARGS="key=value ..."]
       python -m experiments.sweep <experiment> <sweep> [jobs=2] [key=value ...]

Runs the trials of a sweep, a file in wandb's format (experiments/sweeps/, or a path), with Optuna; jobs= so many side
by side. The same command goes on with a killed sweep. Keys hold for every trial.
"""
GUARDED = ("train.devices", "train.num_nodes", "split.learn_validation")
LOOK_S = 5.0
"""Between two looks at what the jobs have done."""


class Asked(NamedTuple):
    """What a command asks for."""

    name: str
    path: Path
    sweep: Sweep
    jobs: int
    worker: int
    """0: the command itself; else one of its jobs."""
    overrides: list[str]
    folder: Path


def read(arguments: Sequence[str]) -> Asked:
    """Raises UserError."""
    from experiments.overrides import override
    from experiments.pipeline import Pipeline

    own = {"jobs": "1", "worker": "0"}
    rest = take(arguments, own)
    if len(rest) < 2 or any("=" in word for word in rest[:2]):
        sweeps = ", ".join(path.stem for path in sorted(FOLDER.glob("*.yaml")))
        raise UserError(
            f"which experiment and sweep? Write make sweep NAME=<experiment> SWEEP=<sweep> (there is {sweeps})"
        )
    name, file, *overrides = rest
    require_named(name)
    path = find_sweep(file)
    sweep = read_sweep(path)
    for word in overrides:
        if word.partition("=")[0] in ("stage", "force"):
            raise UserError(f"{word}: for single runs, with make exp; a sweep trains and validates")
    for key, value in own.items():
        require(value.isascii() and value.isdecimal(), key, value, "a whole number")
    require(int(own["jobs"]) >= 1, "jobs", own["jobs"], "at least 1")
    first = {key: values[0] for key, values in sweep.choices.items()} | {key: s.low for key, s in sweep.spans.items()}
    try:  # all together; some go with one another alone
        config = override(named(name), [*overrides, *(f"{key}={value}" for key, value in first.items())], idle=True)
    except UserError:
        config = override(named(name), overrides, idle=True)
        for key, value in first.items():
            override(config, [f"{key}={value}"], idle=True)
    guarded = [(key, value) for key in GUARDED for value in sweep.values(key)]
    for one in (config, *(override(config, [f"{key}={value}"], idle=True) for key, value in guarded)):
        require_honest(one)
    refuse_idle(config, sweep, [*(word.partition("=")[0] for word in overrides), *first])
    drawing = ["multiples of q"] if any(span.step for span in sweep.spans.values()) else []  # older ones began at min
    folder = f"{name}-{path.stem}-{fingerprint([path.read_text(), Pipeline(config).train.hash, *drawing])}"
    numbers = (int(own["jobs"]), int(own["worker"]))
    return Asked(name, path, sweep, *numbers, overrides, Path(config.output_dir) / "sweeps" / folder)


def refuse_idle(config: "RunConfig", sweep: Sweep, keys: Sequence[str]) -> None:
    """Raises UserError for a key that no trial reads."""
    from experiments.config import unused

    kinds, encoders = (sweep.values(key) or [""] for key in ("split.kind", "embed.encoder"))
    reasons = [unused(config, kind, encoder) for kind in kinds for encoder in encoders]
    for key in keys:
        if all(key in found for found in reasons):
            raise UserError(f"{key}: it changes nothing, as {reasons[0][key]}")


def require_honest(config: "RunConfig") -> None:
    """Raises UserError for a trial that is several processes, or learns what it is chosen by."""
    alone = config.train.devices in ("auto", "1") and config.train.num_nodes == 1
    require(alone, "train.devices", config.train.devices, "1: a trial is one process; jobs= runs several trials")
    honest = not config.split.learn_validation
    require(honest, "split.learn_validation", "true", "false: a sweep chooses by validation, which would be learnt")


def run(arguments: Sequence[str]) -> None:
    """Runs what is missing; shows the table. Raises UserError."""
    asked = read(arguments)
    wait_passively()
    from experiments.sweep_page import show, trials, write
    from experiments.sweep_trial import open_study, queue, work

    try:
        asked.folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{asked.folder} cannot be written: {error.strerror}") from error
    task = (asked.sweep, asked.name, asked.overrides, asked.folder)
    with at_work(asked.folder, asked.worker):
        study = open_study(asked.sweep, asked.folder, asked.worker)
        if asked.worker:
            work(study, *task)
            return
        shutil.copyfile(asked.path, asked.folder / "sweep.yaml")
        queue(study, asked.sweep)

        def save() -> None:
            write(asked.sweep, study, asked.folder, ["python", "-m", "experiments.sweep", *arguments])

        try:
            if asked.jobs == 1:
                work(study, *task, save)
            else:
                side_by_side(arguments, asked.jobs, save)
        finally:
            save()
    show(asked.sweep, study)
    print(f"written: {asked.folder / 'sweep.html'}, .md and .json")
    if failed := sum(one["state"] == "failed" for one in trials(study)):
        raise UserError(f"{failed} trials failed, as stands below the table; the same command tries again")


@contextmanager
def at_work(folder: Path, worker: int) -> Iterator[None]:
    """Holds the lock of the command, or of one of its jobs. Raises UserError where somebody else is at work here."""
    jobs = [] if worker else sorted(folder.glob(".job-*.lock"))
    try:
        for path in jobs:  # of a command that was killed; its jobs may live on
            FileLock(path).acquire(timeout=0.1).lock.release()
        lock = FileLock(folder / (f".job-{worker}.lock" if worker else ".sweep.lock"))
        lock.acquire(timeout=0.1)
    except Timeout as error:
        raise UserError(f"another process works on this sweep: it holds {error.lock_file}") from error
    except OSError as error:
        raise UserError(f"{folder} cannot be written: {error.strerror}") from error
    try:
        yield
    finally:
        lock.release()


def side_by_side(arguments: Sequence[str], jobs: int, save: Callable[[], None]) -> None:
    """Works in so many processes, each on a GPU of its own where there are several; Ctrl-C reaches all of them.

    Raises UserError where one has failed.
    """
    import torch

    command, gpus = [sys.executable, "-m", "experiments.sweep", *arguments], torch.cuda.device_count()
    workers = []
    for number in range(1, jobs + 1):
        seen = {"CUDA_VISIBLE_DEVICES": str((number - 1) % gpus)} if gpus > 1 else {}
        workers.append(subprocess.Popen([*command, f"worker={number}"], env={**os.environ, **seen}))
    try:
        while any(worker.poll() is None for worker in workers):
            time.sleep(LOOK_S)
            save()
    except BaseException:
        for worker in workers:
            worker.terminate()
        raise
    if failed := [worker.returncode for worker in workers if worker.returncode]:
        raise UserError(f"{len(failed)} of {jobs} jobs ended with exit status {failed[0]}; what they said stands above")


def main(arguments: list[str]) -> int:
    return answer(arguments, USAGE, run)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
