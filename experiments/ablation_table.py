"""What the runs of an ablation amount to: a row a switch, and the whole against the plain model by history length.

Array names end in their shape: E test examples.
"""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from datamodules.catalog import Catalog
from datamodules.split import Examples
from experiments.ablations import PLAIN, WHOLE
from experiments.paired import Change, Scores, change, history_lengths, quartiles, read_scores

if TYPE_CHECKING:
    from experiments.pipeline import Pipeline

SCORES = ("recall@10", "ndcg@10")


class Measured(NamedTuple):
    """One finished run of a row."""

    seed: int
    folder: Path
    """Where the weights are."""
    lists: Path
    """What it recommends."""
    train: dict[str, Any]
    """Figures of the training."""
    metrics: dict[str, float]
    """Figures of the test."""


@dataclass(frozen=True)
class Row:
    """The whole model, or one switch."""

    name: str
    overrides: list[str]
    seeds: list[int]
    folders: list[str]
    scores: dict[str, list[float]]
    """Of every seed, on all test targets."""
    changes: dict[str, Change]
    """From the whole to this row; none for the whole itself."""
    parameters: int
    seconds: float
    """Training, a mean over seeds; see `Summary.wall`."""
    borrowed: bool
    """There is no training of its own: the weights are the whole model's."""


@dataclass(frozen=True)
class Part:
    """Test targets with histories of about the same length."""

    shortest: int
    longest: int
    targets: int
    changes: dict[str, Change]
    """From the plain model to the whole."""


@dataclass(frozen=True)
class Summary:
    name: str
    users: int
    targets: int
    wall: bool
    """Seconds are wall seconds, validations included, as some run was on an accelerator; else those of the CPU."""
    rows: list[Row]
    parts: list[Part]
    """All targets, then those of every quartile of history length; nothing where the plain model was not run."""
    environment: dict[str, Any]


def measured(pipeline: "Pipeline") -> Measured:
    """What a pipeline has run up to its test."""
    lists = pipeline.evaluate.folder / "recommendations.parquet"
    train, test = pipeline.figures["train"], pipeline.figures["evaluate"]
    return Measured(pipeline.config.seed, pipeline.train.folder, lists, train, test["metrics"])


def summarise(
    name: str,
    catalog: Catalog,
    test: Examples,
    rows: Mapping[str, list[str]],
    found: Mapping[str, Sequence[Measured]],
    environment: dict[str, Any],
) -> Summary:
    """Reads what every run recommends.

    Args:
        rows: name -> overrides, the whole model among them.
        found: name -> the runs, a seed each and the same seeds in every row.
        environment: where the summary comes from.

    Raises:
        UserError: a file of recommendations is missing or damaged.
    """
    scores = {row: read_scores([run.lists for run in found[row]], catalog, test) for row in rows}
    changes = {row: compare(scores[row], scores[WHOLE], test.user_E) for row in rows if row != WHOLE}
    whole = [run.folder for run in found[WHOLE]]
    wall = any(run.train.get("device", "cpu") != "cpu" for runs in found.values() for run in runs)
    made = [table_row(row, more, found[row], changes.get(row, {}), whole, wall) for row, more in rows.items()]
    parts = by_length(scores[WHOLE], scores[PLAIN], catalog, test) if PLAIN in scores else []
    return Summary(name, len(np.unique(test.user_E)), len(test.user_E), wall, made, parts, environment)


def compare(ours: Scores, base: Scores, user_E: np.ndarray) -> dict[str, Change]:
    pairs = zip(ours, base, strict=True)
    return {name: change(*pair, user_E) for name, pair in zip(SCORES, pairs, strict=True)}


def table_row(
    name: str,
    overrides: list[str],
    runs: Sequence[Measured],
    changes: dict[str, Change],
    whole: Sequence[Path],
    wall: bool,
) -> Row:
    return Row(
        name,
        overrides,
        seeds=[run.seed for run in runs],
        folders=[str(run.lists.parent) for run in runs],
        scores={score: [run.metrics[score] for run in runs] for score in SCORES},
        changes=changes,
        parameters=runs[0].train["parameters"],
        seconds=statistics.fmean(run.train["seconds" if wall else "cpu_seconds"] for run in runs),
        borrowed=name != WHOLE and [run.folder for run in runs] == whole,
    )


def by_length(whole: Scores, plain: Scores, catalog: Catalog, test: Examples) -> list[Part]:
    """From the plain model to the whole on all targets, and on those of every quartile where lengths differ."""
    length_E = history_lengths(catalog, test)
    groups = quartiles(length_E)
    parts = []
    for rows in (np.arange(len(length_E)), *(groups if len(groups) > 1 else [])):
        ours, base = (Scores(*(column_E[rows] for column_E in scores)) for scores in (whole, plain))
        shortest, longest = int(length_E[rows].min()), int(length_E[rows].max())
        parts.append(Part(shortest, longest, len(rows), compare(ours, base, test.user_E[rows])))
    return parts
