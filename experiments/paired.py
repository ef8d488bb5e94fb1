"""Two sets of runs on the same test targets: what one gains over the other, and how sure that is.

Array names end in their shape: E test examples, R rows of a recommendations file, U users, G groups of equal users,
D draws of the bootstrap.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from datamodules.catalog import Catalog
from datamodules.split import Examples
from sid.errors import UserError

DEPTH = 10
DRAWS, LEVEL = 2000, 0.95
CELLS = 1 << 21
"""Most numbers of a bootstrap in memory at once."""


class Scores(NamedTuple):
    """Every test example's score at 10, a mean over the runs of a set."""

    recall_E: np.ndarray
    """(E,) share of the runs that have the target in their top 10."""
    ndcg_E: np.ndarray
    """(E,) 1 / log2(rank + 1), 0 behind rank 10."""


@dataclass(frozen=True)
class Interval:
    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Change:
    """Means of two sets on the same examples, and the change from `base` to `ours` with its 95% interval."""

    ours: float
    base: float
    difference: Interval
    relative: Interval
    """The difference over `base`; not finite where `base` is 0, or may be by the interval."""


def target_ranks(path: Path, catalog: Catalog, test: Examples) -> np.ndarray:
    """(E,) int64: the rank of every test target in its user's list, from 1; 0 where it is not in the top 10, or there
    is no list, as the user has had every item.

    A user's targets share one history, so one list, unless the file has a column `target` for the one that was asked.

    Raises:
        UserError: the file is missing or damaged, belongs to another catalogue, or lacks a test user.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    again = "Run the evaluate stage again (force=evaluate)."
    try:
        schema = pq.read_schema(path)
        names = [name for name in schema.names if name in ("user", "rank", "item", "target")]
        without_U = np.array(json.loads((schema.metadata or {}).get(b"unanswered", "[]")), np.int64)
        rows = pq.read_table(path, columns=names, filters=[("rank", "<=", DEPTH)])
        user_R, rank_R, item_R = (rows[name].to_numpy().astype(np.int64) for name in ("user", "rank", "item"))
        target_R = rows["target"].to_numpy() if "target" in names else item_R
    except (OSError, ValueError, KeyError, pa.ArrowException) as error:
        raise UserError(f"{path} cannot be read ({error}). {again}") from error
    for numbers_R, size in ((user_R, catalog.num_users), (item_R, catalog.num_items)):
        if len(numbers_R) and not 0 <= numbers_R.min() <= numbers_R.max() < size:
            raise UserError(f"{path} belongs to another catalogue. {again}")
    if lacking := len(np.setdiff1d(test.user_E, np.concatenate([user_R, without_U]))):
        raise UserError(f"{path} lacks {lacking} of {len(np.unique(test.user_E))} test users. {again}")
    user_R, rank_R, item_R = (column_R[item_R == target_R] for column_R in (user_R, rank_R, item_R))
    asked_E = test.user_E.astype(np.int64) * catalog.num_items + catalog.item_M[test.target_E]
    asked, example_E = np.unique(asked_E, return_inverse=True)
    answered_R = user_R * catalog.num_items + item_R
    place_R = np.searchsorted(asked, answered_R).clip(max=len(asked) - 1)
    hit_R = asked[place_R] == answered_R
    rank = np.zeros(len(asked), np.int64)
    rank[place_R[hit_R]] = rank_R[hit_R]
    return rank[example_E]


def scores(rank_RE: np.ndarray) -> Scores:
    """Means over the runs of a set.

    Args:
        rank_RE: (runs, E) ranks from 1, 0 for no hit (see `target_ranks`).
    """
    hit_RE = rank_RE > 0
    gain_RE = np.where(hit_RE, 1 / np.log2(np.maximum(rank_RE, 1) + 1), 0.0)
    return Scores(hit_RE.mean(0), gain_RE.mean(0))


def read_scores(paths: Sequence[Path], catalog: Catalog, test: Examples) -> Scores:
    """The scores of a set of runs, given by their recommendations files. Raises UserError (see `target_ranks`)."""
    return scores(np.stack([target_ranks(path, catalog, test) for path in paths]))


def change(ours_E: np.ndarray, base_E: np.ndarray, user_E: np.ndarray, draws: int = DRAWS, seed: int = 0) -> Change:
    """The change from `base_E` to `ours_E` with paired bootstrap intervals over users.

    Args:
        ours_E, base_E: (E,) scores of the same examples; a mean is one over examples.
        user_E: (E,) whose they are: a draw takes a user with all their examples.
    """
    ours, base = float(ours_E.mean()), float(base_E.mean())
    mean_D2 = np.concatenate([*resampled(ours_E, base_E, user_E, draws, seed)])
    with np.errstate(divide="ignore", invalid="ignore"):
        relative = float(np.divide(ours - base, base))
        relative_D = (mean_D2[:, 0] - mean_D2[:, 1]) / mean_D2[:, 1]
    difference = Interval(ours - base, *middle(mean_D2[:, 0] - mean_D2[:, 1]))
    return Change(ours, base, difference, Interval(relative, *middle(relative_D)))


def middle(value_D: np.ndarray) -> tuple[float, float]:
    """The ends of the middle 95%; NaN where a draw is not finite."""
    if not np.isfinite(value_D).all():
        return float("nan"), float("nan")
    low, high = np.quantile(value_D, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def resampled(
    ours_E: np.ndarray, base_E: np.ndarray, user_E: np.ndarray, draws: int, seed: int
) -> Iterator[np.ndarray]:
    """(D, 2) means of ours and base over as many users as there are, drawn with replacement; some draws at a time.

    Users of equal scores are exchangeable, so a draw is one multinomial sample over the groups of equal users.
    """
    rows_G3, count_G = equal_users(ours_E, base_E, user_E)
    users = int(count_G.sum())
    rng = np.random.default_rng(seed)
    at_once = max(1, CELLS // len(count_G))
    for start in range(0, draws, at_once):
        drawn_DG = rng.multinomial(users, count_G / users, min(at_once, draws - start))
        sum_D3 = drawn_DG @ rows_G3
        yield sum_D3[:, :2] / sum_D3[:, 2:]


def equal_users(ours_E: np.ndarray, base_E: np.ndarray, user_E: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """((G, 3), (G,)): the sum of ours, the sum of base and the number of examples, and how many users have them."""
    user_of_E = np.unique(user_E, return_inverse=True)[1]
    columns = (ours_E, base_E, np.ones(len(user_E)))
    sum_U3 = np.stack([np.bincount(user_of_E, weights=column_E) for column_E in columns], axis=1)
    return np.unique(sum_U3, axis=0, return_counts=True)


def history_lengths(catalog: Catalog, test: Examples) -> np.ndarray:
    """(E,) int64: all events before the target, however many of them a model reads."""
    return test.end_E - catalog.offsets_U1[test.user_E]


def quartiles(length_E: np.ndarray) -> list[np.ndarray]:
    """The numbers of the examples in four groups of rising history length; equal lengths stay together, so there may be
    fewer groups."""
    edges = np.quantile(length_E, [0.25, 0.5, 0.75], method="inverted_cdf")
    group_E = np.searchsorted(edges, length_E)
    groups = (np.flatnonzero(group_E == group) for group in range(4))
    return [rows for rows in groups if len(rows)]
