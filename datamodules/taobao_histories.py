"""From the histories and clicks of TAOBAO-MM to the log: every user's history, then the user's targets.

Array names end in their shape: S clicked samples, Q users with a kept sample, V raw items, X target items, R rows of a
batch, H history items of a batch.
"""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from datamodules.taobao_tables import HISTORY, HISTORY_CATEGORIES, ITEM, LABEL, USER, batches, ids, lists, matrix
from datamodules.taobao_write import ItemNumbers, NpyWriter, UserList, places
from sid.errors import UserError

SAMPLE_ROWS, HISTORY_ROWS = 1 << 18, 1 << 12


class Clicks(NamedTuple):
    """Raw ids of the users and items of the clicked samples, in the order of the file."""

    user_S: np.ndarray
    item_S: np.ndarray


class Answers(NamedTuple):
    """The targets of each user of a part: those of user_Q[q] are number_S[start_Q1[q] : start_Q1[q + 1]].

    Attributes:
        user_Q: raw ids in rising order.
        number_S: items of the catalogue (the targets are its first), a user's in the order of the file.
    """

    user_Q: np.ndarray
    start_Q1: np.ndarray
    number_S: np.ndarray

    @classmethod
    def of(cls, clicks: Clicks, target_X: np.ndarray) -> "Answers":
        number_S = places(target_X, clicks.item_S)
        kept_S = number_S >= 0
        user_S, number_S = clicks.user_S[kept_S], number_S[kept_S].astype(np.int32)
        order_S = np.argsort(user_S, kind="stable")
        user_Q, start_Q = np.unique(user_S[order_S], return_index=True)
        return cls(user_Q, np.append(start_Q, len(user_S)), number_S[order_S])

    def of_users(self, row_R: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The targets of the users `row_R`, one user after the other, and how many each has."""
        count_R = np.diff(self.start_Q1)[row_R]
        return self.number_S[_ranges(self.start_Q1[row_R], count_R)], count_R


def read_clicks(files: list[Path], table: str) -> Clicks:
    """The clicked samples, whose label is [0, 1], of known users and items (0 is neither)."""
    users, items = [np.empty(0, np.int64)], [np.empty(0, np.int64)]
    for batch in batches(files, table, [LABEL, USER, ITEM], SAMPLE_ROWS):
        user_R, item_R = ids(batch, USER), ids(batch, ITEM)
        kept_R = (matrix(batch, LABEL, 2, table) == (0, 1)).all(axis=1) & (user_R != 0) & (item_R != 0)
        users.append(user_R[kept_R])
        items.append(item_R[kept_R])
    return Clicks(np.concatenate(users), np.concatenate(items))


def history_items(histories: dict[str, list[Path]]) -> np.ndarray:
    """(V,) raw ids of the items of all histories (part and files), in rising order."""
    known_V, waiting = np.empty(0, np.int64), [np.empty(0, np.int64)]
    for part, files in histories.items():
        for batch in batches(files, f"{part}_user_features", [HISTORY], HISTORY_ROWS):
            waiting.append(np.unique(lists(batch, HISTORY)[0]))
            if sum(map(len, waiting)) > len(known_V):
                known_V, waiting = np.unique(np.concatenate([known_V, *waiting])), []
    known_V = np.unique(np.concatenate([known_V, *waiting]))
    return known_V[known_V != 0]


def write_answered(
    files: list[Path], part: str, answers: Answers, numbers: ItemNumbers, users: UserList, log: NpyWriter
) -> None:
    """Append the history of every user of a part who has one and a target, and the targets behind it.

    Raises:
        UserError: a user has two rows, a history and its categories are of different lengths, or no user is left.
    """
    table = f"{part}_user_features"
    rows_Q = np.zeros(len(answers.user_Q), np.int64)
    for batch in batches(files, table, [USER, HISTORY, HISTORY_CATEGORIES], HISTORY_ROWS):
        row_R = places(answers.user_Q, ids(batch, USER))
        batch, row_R = batch.filter(pa.array(row_R >= 0)), row_R[row_R >= 0]
        np.add.at(rows_Q, row_R, 1)
        if (rows_Q[row_R] > 1).any():
            raise UserError(f"{table}: user {answers.user_Q[rows_Q.argmax()]} has two rows; keep one row a user.")
        number_H, length_R = _history(batch, table, numbers)
        kept_R = length_R > 0
        number_S, targets_R = answers.of_users(row_R[kept_R])
        users.append(part, ids(batch, USER)[kept_R], length_R[kept_R] + targets_R, targets_R)
        log.append(_interleave(number_H, length_R[kept_R], number_S, targets_R))
    if not users.num_targets(part):
        raise UserError(
            f"TAOBAO-MM: no user of the {part} part is left. {len(rows_Q)} users clicked a target item; {table} has a "
            f"row for {(rows_Q > 0).sum()} of them, and none of those has an item with a vector in the history."
        )


def write_newest(files: list[Path], part: str, numbers: ItemNumbers, users: UserList, log: NpyWriter) -> None:
    """Append every history of two items or more; the last of them is the target.

    Raises:
        UserError: a history and its categories are of different lengths, or no user is left.
    """
    table = f"{part}_user_features"
    for batch in batches(files, table, [USER, HISTORY, HISTORY_CATEGORIES], HISTORY_ROWS):
        item_H, length_R = lists(batch, HISTORY)
        batch = batch.filter(pa.array(_count(item_H != 0, length_R) >= 2))
        number_H, length_R = _history(batch, table, numbers)
        users.append(part, ids(batch, USER), length_R, np.ones(batch.num_rows, np.int64))
        log.append(number_H)
    if not users.num_targets(part):
        raise UserError(f"TAOBAO-MM: no user of the {part} part is left: no history of {table} has two items.")


def _history(batch: pa.RecordBatch, table: str, numbers: ItemNumbers) -> tuple[np.ndarray, np.ndarray]:
    """The numbers of a batch's history items that have one, and how many of each row have."""
    (item_H, length_R), (category_H, categories_R) = lists(batch, HISTORY), lists(batch, HISTORY_CATEGORIES)
    if (length_R != categories_R).any():
        row = int((length_R != categories_R).argmax())
        raise UserError(
            f"{table}: user {ids(batch, USER)[row]} has {length_R[row]} items in {HISTORY} and {categories_R[row]} "
            f"categories in {HISTORY_CATEGORIES}; expected as many."
        )
    number_H = numbers.met(item_H, category_H)
    return number_H[number_H >= 0], _count(number_H >= 0, length_R)


def _count(chosen_H: np.ndarray, length_R: np.ndarray) -> np.ndarray:
    """(R,) how many are chosen in every row."""
    return np.diff(np.append(0, np.cumsum(chosen_H))[np.append(0, np.cumsum(length_R))])


def _interleave(one: np.ndarray, one_R: np.ndarray, two: np.ndarray, two_R: np.ndarray) -> np.ndarray:
    """Row by row the next one_R[r] of `one`, then the next two_R[r] of `two`."""
    start_R = np.cumsum(one_R + two_R) - (one_R + two_R)
    both = np.empty(len(one) + len(two), np.int32)
    both[_ranges(start_R, one_R)] = one
    both[_ranges(start_R + one_R, two_R)] = two
    return both


def _ranges(start_R: np.ndarray, count_R: np.ndarray) -> np.ndarray:
    """start_R[r], start_R[r] + 1, ... (count_R[r] numbers), one r after the other."""
    return np.arange(count_R.sum()) + np.repeat(start_R - np.cumsum(count_R) + count_R, count_R)
