"""Test users of a run in words: what came before, what was asked for, what was answered.

Array names end in their shape: U users, N items, L levels, R rows of the recommendations file.
"""

import html
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from datamodules.catalog import Catalog
from datamodules.split import Examples
from sid.errors import UserError

if TYPE_CHECKING:
    from sid.table import SIDTable

EXAMPLES, HISTORY, SHOWN = 20, 8, 10
LONGEST_TITLE = 110


class Shown(NamedTuple):
    """An item in words."""

    title: str
    path: str
    raw_id: str
    agrees: str
    """The start of its semantic ID, as far as it is the target's; "" where there are none."""
    differs: str
    score: float | None = None
    hit: bool = False


class Example(NamedTuple):
    """A test user: what came before, what was asked for, what was answered."""

    user: str
    num_before: int
    history: list[Shown]
    target: Shown
    answers: list[Shown]
    rank: int
    """Of the target in the file, from 1; 0 where it is not there."""


def example_users(path: Path, catalog: Catalog, test: Examples, table: "SIDTable | None") -> list[Example]:
    """Up to 20 test users, evenly spaced, half of them with the target in the top 10 where there are so many.

    Of several targets of a user the last is shown.

    Raises:
        UserError: the file is missing or damaged, or names users or items that the catalogue does not have.
    """
    import pyarrow.parquet as pq

    try:
        rows = pq.read_table(path)
        user_R, rank_R, item_R, score_R = (rows[name].to_numpy() for name in ("user", "rank", "item", "score"))
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"{path} cannot be read ({error}). Run the evaluate stage again.") from error
    if len(user_R) and (user_R.max() >= catalog.num_users or item_R.max() >= catalog.num_items):
        raise UserError(f"{path} belongs to another catalogue. Run the evaluate stage again.")
    event_U, end_U = np.full((2, catalog.num_users), -1)
    event_U[test.user_E], end_U[test.user_E] = test.target_E, test.end_E
    target_R = catalog.item_M[event_U[user_R]]
    hit_R = (item_R == target_R) & (rank_R <= SHOWN) & (event_U[user_R] >= 0)
    users = np.intersect1d(user_R, test.user_E)
    hits = np.unique(user_R[hit_R])
    chosen = choose(hits, np.setdiff1d(users, hits), EXAMPLES)
    found = []
    for user in chosen:
        mine_R = np.flatnonzero(user_R == user)
        mine_R = mine_R[np.argsort(rank_R[mine_R], kind="stable")]
        asked = int(end_U[user]), int(event_U[user])
        found.append(_example(user, *asked, item_R[mine_R], score_R[mine_R], catalog, table))
    return found


def choose(hits: np.ndarray, misses: np.ndarray, wanted: int) -> list[int]:
    """Users in rising order, evenly spaced within hits and within misses, as near half and half as these allow."""
    num_hits = min(len(hits), max(wanted // 2, wanted - len(misses)))
    num_misses = min(len(misses), wanted - num_hits)
    parts = ((hits, num_hits), (misses, num_misses))
    return sorted(int(part[i]) for part, n in parts for i in np.linspace(0, len(part) - 1, n).round().astype(int))


def _example(
    user: int, end: int, event: int, items: np.ndarray, scores: np.ndarray, catalog: Catalog, table: "SIDTable | None"
) -> Example:
    start, target = int(catalog.offsets_U1[user]), int(catalog.item_M[event])
    before = catalog.item_M[max(start, end - HISTORY) : end]
    where = np.flatnonzero(items == target)
    return Example(
        user=catalog.users["user"][user].as_py(),
        num_before=end - start,
        history=[in_words(int(item), target, catalog, table) for item in before],
        target=in_words(target, target, catalog, table),
        answers=[
            in_words(int(item), target, catalog, table)._replace(score=float(score), hit=bool(item == target))
            for item, score in zip(items[:SHOWN], scores[:SHOWN], strict=True)
            if item >= 0
        ],
        rank=int(where[0]) + 1 if len(where) else 0,
    )


def in_words(item: int, target: int, catalog: Catalog, table: "SIDTable | None") -> Shown:
    """An item beside another one. Titles and categories as the shop writes them, HTML entities decoded, cut to a line
    or two.
    """
    row = {name: catalog.items[name][item].as_py() for name in ("item", "title", "categories", "category")}
    title = " ".join(html.unescape(row["title"] or "").split()) or row["item"]
    if len(title) > LONGEST_TITLE:
        title = title[: LONGEST_TITLE - 1].rstrip() + "…"
    path = row["categories"][1:] or row["categories"] or [row["category"]]
    agrees = words = ""
    if table is not None:
        codes_L = table.codes_NL[item]
        agreed = int((codes_L == table.codes_NL[target]).long().cumprod(0).sum())
        words, agrees = table.words(codes_L), table.words(codes_L[:agreed])
    return Shown(title, html.unescape(" › ".join(path)), row["item"], agrees, words[len(agrees) :])
