"""Which events a model learns from and which it is asked for.

Array names end in their shape: U users, M events, E examples.
"""

from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np

from datamodules.catalog import Catalog
from sid.errors import UserError, require

STRETCH_EVENTS = 1 << 23
KINDS = ("leave_one_out", "time", "given")


class Examples(NamedTuple):
    """Questions: given every event of a user before the target, which item is the target?

    Attributes:
        user_E: (E,) int32, the user.
        target_E: (E,) int64, where the target lies in Catalog.item_M.
        end_E: (E,) int64, where the history ends: it is item_M[offsets_U1[user]:end] and is never empty. The same as
            target_E, but for data whose targets of one user have no order among themselves.
    """

    user_E: np.ndarray
    target_E: np.ndarray
    end_E: np.ndarray

    def only(self, rows: np.ndarray) -> "Examples":
        """Some of the examples, by number or mask."""
        return Examples(*(array_E[rows] for array_E in self))


class Split(NamedTuple):
    train: Examples
    validation: Examples
    test: Examples


@dataclass
class SplitConfig:
    """How the events are divided.

    leave_one_out: a user's last event is the test, the last but one the validation, every earlier one with a history
        is for training: the published protocol. Across users it looks into the future: a training event of one user
        may be later than the test event of another.
    time: two moments t1 < t2 for everybody. Training targets lie before t1; validation is each user's first event in
        [t1, t2), test each user's first event from t2 on, where there is a history. Nothing is learnt from an event at
        or after t1, and no history reaches its target's time window.
    given: the data says which users are for training and which for the test, and how many of a user's last events are
        targets (Catalog.users, columns part and targets). Validation users are drawn from the training users.

    Attributes:
        kind: leave_one_out, time or given.
        train_targets: leave_one_out only; the most recent training targets of a user, each with the whole history
            before it; 0: all.
        validation_share: the share of all events, by time, in [t1, t2), or of the given training users.
        test_share: time only; the share of all events from t2 on.
        cold_share: leave_one_out only; the share of the different test targets that are made new items: nothing is left
            of them but the test targets (TIGER, section 4.3), and a user without any other event is not tested. The
            same ones for every seed. Tokenizers are fitted without them.
        learn_validation: leave_one_out only; validation targets are learnt too, and training keeps its last weights:
            the last step before the test, with settings and epochs that validation has chosen without. The figures of
            validation are then of what has been learnt.
    """

    kind: str = "leave_one_out"
    train_targets: int = 0
    validation_share: float = 0.1
    test_share: float = 0.1
    cold_share: float = field(default=0.0, metadata={"hashed": "if set"})
    learn_validation: bool = field(default=False, metadata={"hashed": "if set"})

    def check(self) -> None:
        """Raise UserError for an unknown kind, or shares that leave no events to a part of the time split."""
        require(self.kind in KINDS, "split.kind", self.kind, " or ".join(KINDS))
        require(self.train_targets >= 0, "split.train_targets", self.train_targets, "at least 0")
        if self.train_targets:
            require(self.kind == "leave_one_out", "split.train_targets", self.train_targets, f"0 with kind={self.kind}")
        require(0 <= self.cold_share < 1, "split.cold_share", self.cold_share, "a share from 0 to below 1")
        for name in ("cold_share", "learn_validation"):
            value = getattr(self, name)
            fits = self.kind == "leave_one_out" or not value
            require(fits, f"split.{name}", value, f"split.kind=leave_one_out with it, not {self.kind}")
        if self.kind == "given":
            share = self.validation_share
            require(0 < share < 1, "split.validation_share", share, "a share above 0 and below 1")
        if self.kind == "time":
            for name in ("validation_share", "test_share"):
                share = getattr(self, name)
                require(0 < share < 1, f"split.{name}", share, "a share above 0 and below 1")
            fits = self.validation_share + self.test_share < 1
            expected = f"below 1 together with split.test_share={self.test_share}"
            require(fits, "split.validation_share", self.validation_share, expected)

    def known(self, catalog: Catalog) -> Catalog:
        """The catalogue with the log that `build` divides: nothing of new items but where they are test targets.

        Raises:
            UserError: the share is of less than one item.
        """
        if not self.cold_share:
            return catalog
        last_U = catalog.offsets_U1[1:] - 1
        targets_X = np.unique(catalog.item_M[leave_one_out(catalog.offsets_U1).test.target_E])
        chosen = np.random.default_rng(0).permutation(len(targets_X))[: round(len(targets_X) * self.cold_share)]
        expected = f"more: it is less than one of the {len(targets_X)} different test targets"
        require(len(chosen) > 0, "split.cold_share", self.cold_share, expected)
        kept_M = ~np.isin(catalog.item_M, targets_X[chosen])
        kept_M[last_U] = True
        offsets_U1 = np.concatenate([[0], np.cumsum(kept_M)[last_U]])
        return replace(catalog, offsets_U1=offsets_U1, item_M=catalog.item_M[kept_M], time_M=catalog.time_M[kept_M])

    def build(self, catalog: Catalog) -> Split:
        """Divide the events of what `known` gives.

        Raises:
            UserError: unknown kind, shares outside (0, 1), or a part of the split is empty.
        """
        self.check()
        divided = catalog.users["part"].null_count < catalog.users.num_rows
        if divided and self.kind != "given":
            raise UserError(f"split.kind={self.kind}, but this data comes divided into training and test: set given")
        if self.kind == "leave_one_out":
            split = leave_one_out(catalog.offsets_U1, self.train_targets, self.learn_validation)
            longest = np.diff(catalog.offsets_U1).max(initial=0)
            cause = f"test, validation and training need a user with 2, 3 and 4 events, and none has over {longest}"
            way_out = "Give data with longer histories, or set split.kind=time."
        elif self.kind == "given":
            split = given(catalog, self.validation_share)
            cause = f"the data names {len(split.test.user_E)} test targets; validation_share={self.validation_share}"
            way_out = "Use data that is divided already (such as TAOBAO-MM), or another split.kind."
        else:
            split = by_time(catalog.offsets_U1, catalog.time_M, self.validation_share, self.test_share)
            cause = f"the shares are {self.validation_share} and {self.test_share} of {catalog.num_events} events"
            way_out = "Change split.validation_share and split.test_share, or use split.kind=leave_one_out."
        for name, examples in split._asdict().items():
            if len(examples.user_E) == 0:
                raise UserError(f"split.kind={self.kind} leaves no {name} example: {cause}. {way_out}")
        return split


def known_until(train: Examples, offsets_U1: np.ndarray) -> np.ndarray:
    """(U,) int64, where the events of each user end that training may know: the last training target and all before it.

    It is the user's first event where there is no training target.
    """
    known_U: np.ndarray = offsets_U1[:-1].copy()
    np.maximum.at(known_U, train.user_E, train.target_E + 1)
    return known_U


def leave_one_out(offsets_U1: np.ndarray, train_targets: int = 0, learn_validation: bool = False) -> Split:
    """Test on the last event of each user, validate on the one before, train on the rest (or the last of it), and on
    what validates too where that is wanted."""
    user_M, index_M, left_M = _positions(offsets_U1)
    has_history_M = index_M >= 1
    newest = 1 if learn_validation else 2
    oldest = newest + train_targets if train_targets else len(index_M) + 2
    return Split(
        train=_examples(user_M, has_history_M & (left_M >= newest) & (left_M < oldest)),
        validation=_examples(user_M, has_history_M & (left_M == 1)),
        test=_examples(user_M, has_history_M & (left_M == 0)),
    )


def by_time(offsets_U1: np.ndarray, time_M: np.ndarray, validation_share: float, test_share: float) -> Split:
    """Cut everybody's events at the same two moments. Times rise within a user."""
    user_M, index_M, _ = _positions(offsets_U1)
    num_events = len(time_M)
    first_validation = min(round(num_events * (1 - validation_share - test_share)), num_events - 1)
    first_test = min(round(num_events * (1 - test_share)), num_events - 1)
    t1, t2 = np.partition(time_M, [first_validation, first_test])[[first_validation, first_test]]
    window_M = (time_M >= t1).astype(np.int8) + (time_M >= t2)
    enters_M = (index_M >= 1) & (np.diff(window_M, prepend=0) > 0)
    return Split(
        train=_examples(user_M, (index_M >= 1) & (window_M == 0)),
        validation=_examples(user_M, enters_M & (window_M == 1)),
        test=_examples(user_M, enters_M & (window_M == 2)),
    )


def given(catalog: Catalog, validation_share: float) -> Split:
    """The division that comes with the data; the same users are always for validation."""
    part_U = np.array(catalog.users["part"].to_pylist(), dtype=object)
    targets_U = np.array(catalog.users["targets"].fill_null(0))
    training_U = np.flatnonzero(part_U == "train")
    chosen = np.random.default_rng(0).permutation(len(training_U))[: round(len(training_U) * validation_share)]
    part_U[training_U[chosen]] = "validation"
    named = {}
    for name in Split._fields:
        user_V = np.flatnonzero((part_U == name) & (targets_U > 0))
        count_V = targets_U[user_V]
        user_E = np.repeat(user_V, count_V)
        end_E = catalog.offsets_U1[user_E + 1] - targets_U[user_E]
        place_E = np.arange(len(user_E)) - np.repeat(np.cumsum(count_V) - count_V, count_V)
        examples = Examples(user_E.astype(np.int32), end_E + place_E, end_E)
        named[name] = examples.only(end_E > catalog.offsets_U1[user_E])
    return Split(**named)


def _positions(offsets_U1: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Per event: its user, how many of the user's events come before it, and how many after."""
    lengths_U = np.diff(offsets_U1)
    user_M = np.repeat(np.arange(len(lengths_U), dtype=np.int32), lengths_U)
    position_M = np.arange(len(user_M))
    return user_M, position_M - offsets_U1[user_M], offsets_U1[user_M + 1] - 1 - position_M


def _examples(user_M: np.ndarray, chosen_M: np.ndarray) -> Examples:
    target_E = np.flatnonzero(chosen_M).astype(np.int64)
    return Examples(user_M[target_E], target_E, target_E)


def learnt_counts(catalog: Catalog, split: Split) -> np.ndarray:
    """(N,) int64, how often each item is among the events that training may know. The log is read a stretch at a
    time."""
    offsets_U1, count_N = catalog.offsets_U1, np.zeros(catalog.num_items, np.int64)
    known_U = known_until(split.train, offsets_U1)
    for start in range(0, catalog.num_events, STRETCH_EVENTS):
        stop = min(start + STRETCH_EVENTS, catalog.num_events)
        first, last = np.searchsorted(offsets_U1, [start, stop - 1], side="right") - 1
        events_U = np.diff(np.clip(offsets_U1[first : last + 2], start, stop))
        known = np.arange(start, stop) < np.repeat(known_U[first : last + 1], events_U)
        count_N += np.bincount(catalog.item_M[start:stop][known], minlength=catalog.num_items)
    return count_N
