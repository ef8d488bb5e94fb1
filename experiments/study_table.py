"""What the runs of a study amount to: a row a change, each compared with the base on the same seeds.

Array names end in their shape: E test examples.
"""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from datamodules.catalog import Catalog
from datamodules.split import Examples
from experiments.paired import Change, Scores, change, history_lengths, quartiles, read_scores
from experiments.studies import Study

if TYPE_CHECKING:
    from experiments.config import RunConfig
    from experiments.pipeline import Pipeline

SCORES = ("recall@10", "ndcg@10")


class Measured(NamedTuple):
    """One finished run of a row."""

    folder: Path
    """Where the weights are."""
    lists: Path
    """What it recommends."""
    sids: dict[str, Any]
    """Figures of the tokenize stage; none for a model that reads no codes."""
    train: dict[str, Any]
    """Figures of the training."""
    metrics: dict[str, float]
    """Figures of the test."""
    users_per_second: float
    """At the test."""


@dataclass
class Cell:
    """A row on one experiment: what is to be run, and what has come of it."""

    experiment: str
    row: str
    overrides: list[str]
    asked: bool
    """To be run; otherwise shown where it is finished."""
    left_out: list[str] = field(default_factory=list)
    """Overrides for all rows that this one's kinds of model and tokenizer have no field for."""
    published: dict[str, float] = field(default_factory=dict)
    """The paper's figures, where they are of the same protocol."""
    configs: dict[int, "RunConfig"] = field(default_factory=dict)
    """Seed -> run."""
    found: dict[int, Measured] = field(default_factory=dict)
    """Seed -> finished run."""
    problems: dict[str, list[int]] = field(default_factory=dict)
    """What went wrong -> seeds; none where the row cannot be configured."""

    @property
    def shown(self) -> bool:
        """Whether the table has it."""
        return bool(self.found) or (self.asked and bool(self.problems))

    @property
    def in_float32(self) -> list[int]:
        """Seeds whose machine had no bfloat16, which was asked for."""
        asked = {seed: self.configs[seed].train.precision for seed in self.found}
        return [seed for seed, run in self.found.items() if run.train.get("precision", asked[seed]) != asked[seed]]


@dataclass(frozen=True)
class SIDs:
    """The tables of a row."""

    sizes: list[int]
    largest_group: int
    """Items of this catalogue with equal codes, at most."""
    digit: bool
    """Whether one more code tells them apart."""
    collision_rate: float
    usage: float
    """Share of the codes that have items, a mean over levels."""
    variance_left: float | None
    """Share of the vectors' variance that the codes do not hold, where it was measured."""


@dataclass(frozen=True)
class Row:
    """The base, or one change."""

    name: str
    overrides: list[str]
    seeds: list[int]
    folders: list[str]
    scores: dict[str, list[float]]
    """Of every seed, on all test targets."""
    changes: dict[str, Change]
    """From the base to this row on the seeds of both; none for the base itself."""
    sids: SIDs | None
    parameters: float | None
    seconds: float | None
    """Training, a mean over seeds; see `Table.wall`."""
    borrowed: bool
    """There is no training of its own: the weights are the base's."""
    published: dict[str, float]
    problems: dict[str, list[int]]
    left_out: list[str] = field(default_factory=list)
    """Overrides for all rows that this one does not have."""


@dataclass(frozen=True)
class Part:
    """Test targets with histories of about the same length."""

    shortest: int
    longest: int
    targets: int
    changes: dict[str, Change]
    """From the row of `Study.by_length` to the base."""


@dataclass(frozen=True)
class Table:
    """The rows of one experiment that are finished in part at least, or have failed."""

    experiment: str
    users: int
    targets: int
    planned: int
    finished: int
    """Runs."""
    wall: bool
    """Seconds are wall seconds, validations included, as some run was on an accelerator; else those of the CPU."""
    rows: list[Row]
    parts: list[Part]
    """All targets, then those of every quartile of history length; nothing where there is nothing to compare with."""
    in_float32: dict[str, list[int]] = field(default_factory=dict)
    """Row -> seeds; see `Cell.in_float32`."""


@dataclass(frozen=True)
class Summary:
    name: str
    title: str
    base: str
    by_length: str
    tokenizer_seeds: bool
    tables: list[Table]
    environment: dict[str, Any]


def measured(pipeline: "Pipeline") -> Measured:
    """What a pipeline has run up to its test."""
    lists = pipeline.evaluate.folder / "recommendations.parquet"
    sids, train, test = (pipeline.figures.get(stage, {}) for stage in ("tokenize", "train", "evaluate"))
    return Measured(pipeline.train.folder, lists, sids, train, test["metrics"], test["users_per_second"])


def summarise(
    name: str,
    study: Study,
    cells: Sequence[Cell],
    pipelines: Mapping[str, "Pipeline"],
    environment: dict[str, Any],
) -> Summary:
    """Reads what every finished run recommends.

    Args:
        pipelines: a finished run of every experiment that has one.
        environment: where the summary comes from.

    Raises:
        UserError: a file of recommendations is missing or damaged.
    """
    tables = []
    for experiment in dict.fromkeys(cell.experiment for cell in cells):
        here = {cell.row: cell for cell in cells if cell.experiment == experiment}
        if any(cell.shown for cell in here.values()):
            pipeline = pipelines.get(experiment)
            judge = Judge(pipeline.catalog, pipeline.split.test) if pipeline else None
            tables.append(tabulate(study, experiment, here, judge))
    return Summary(name, study.title, study.base, study.by_length, study.tokenizer_seeds, tables, environment)


class Judge:
    """Compares sets of runs (seed -> run) of one experiment on the seeds that both have."""

    def __init__(self, catalog: Catalog, test: Examples) -> None:
        self.catalog, self.test = catalog, test
        self.read = cache(lambda paths: read_scores(paths, catalog, test))

    def scores(self, ours: Mapping[int, Measured], base: Mapping[int, Measured]) -> tuple[Scores, Scores] | None:
        """None where there is no such seed."""
        both = sorted(ours.keys() & base.keys())
        return (self._read(ours, both), self._read(base, both)) if both else None

    def _read(self, runs: Mapping[int, Measured], seeds: Sequence[int]) -> Scores:
        return self.read(tuple(runs[seed].lists for seed in seeds))

    def changes(self, ours: Mapping[int, Measured], base: Mapping[int, Measured]) -> dict[str, Change]:
        scores = self.scores(ours, base)
        return compare(*scores, self.test.user_E) if scores else {}

    def parts(self, ours: Mapping[int, Measured], base: Mapping[int, Measured]) -> list[Part]:
        scores = self.scores(ours, base)
        return by_length(*scores, self.catalog, self.test) if scores else []


def tabulate(study: Study, experiment: str, cells: Mapping[str, Cell], judge: Judge | None) -> Table:
    """One experiment's table, of its cells by row; there is no judge where no run is finished."""
    base = cells[study.base].found
    wall = any(run.train.get("device", "cpu") != "cpu" for cell in cells.values() for run in cell.found.values())
    rows = []
    for name, cell in cells.items():
        if cell.shown:
            against = base if name != study.base else {}
            rows.append(table_row(cell, against, judge.changes(cell.found, against) if judge else {}, wall))
    parts = judge.parts(base, cells[study.by_length].found) if judge and study.by_length in cells else []
    user_E = judge.test.user_E if judge else np.empty(0)
    float32 = {name: cell.in_float32 for name, cell in cells.items() if cell.in_float32}
    planned, finished = (sum(len(getattr(cell, part)) for cell in cells.values()) for part in ("configs", "found"))
    return Table(experiment, len(np.unique(user_E)), len(user_E), planned, finished, wall, rows, parts, float32)


def compare(ours: Scores, base: Scores, user_E: np.ndarray) -> dict[str, Change]:
    pairs = zip(ours, base, strict=True)
    return {name: change(*pair, user_E) for name, pair in zip(SCORES, pairs, strict=True)}


def table_row(cell: Cell, base: Mapping[int, Measured], changes: dict[str, Change], wall: bool) -> Row:
    """A cell with what it amounts to; `base` holds the base's runs, none where the cell is the base."""
    runs = [cell.found[seed] for seed in sorted(cell.found)]
    both = cell.found.keys() & base.keys()
    clock = "seconds" if wall else "cpu_seconds"
    return Row(
        cell.row,
        cell.overrides,
        seeds=sorted(cell.found),
        folders=[str(run.lists.parent) for run in runs],
        scores={score: [run.metrics[score] for run in runs] for score in SCORES},
        changes=changes,
        sids=sids([run.sids for run in runs]) if runs and runs[0].sids else None,
        parameters=statistics.fmean(run.train["parameters"] for run in runs) if runs else None,
        seconds=statistics.fmean(run.train[clock] for run in runs) if runs else None,
        borrowed=bool(both) and all(cell.found[seed].folder == base[seed].folder for seed in both),
        published=cell.published,
        problems=cell.problems,
        left_out=cell.left_out,
    )


def sids(figures: Sequence[Mapping[str, Any]]) -> SIDs:
    """Means over the tables of the seeds."""
    left = [value for one in figures if (value := one.get("reconstruction", [None])[-1]) is not None]
    digits = [one.get("digit", True) for one in figures]  # older tables all have one
    sizes = figures[0]["codebook_sizes"]
    return SIDs(
        sizes=sizes[:-1] if digits[0] else sizes,
        digit=any(digits),
        largest_group=max(one["largest_group"] for one in figures),
        collision_rate=statistics.fmean(one["collision_rate"] for one in figures),
        usage=statistics.fmean(statistics.fmean(one["usage"]) for one in figures),
        variance_left=statistics.fmean(left) if left else None,
    )


def by_length(ours: Scores, base: Scores, catalog: Catalog, test: Examples) -> list[Part]:
    """From the base to ours on all targets, and on those of every quartile where lengths differ."""
    length_E = history_lengths(catalog, test)
    groups = quartiles(length_E)
    parts = []
    for rows in (np.arange(len(length_E)), *(groups if len(groups) > 1 else [])):
        one, other = (Scores(*(column_E[rows] for column_E in scores)) for scores in (ours, base))
        shortest, longest = int(length_E[rows].min()), int(length_E[rows].max())
        parts.append(Part(shortest, longest, len(rows), compare(one, other, test.user_E[rows])))
    return parts
