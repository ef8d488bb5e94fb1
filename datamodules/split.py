"""Which events a model learns from and which it is asked for.

Array names end in their shape: U users, M events, E examples.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from datamodules.catalog import Catalog
from sid.errors import UserError, require

KINDS = ("leave_one_out", "time")


class Examples(NamedTuple):
    """Questions: given every event of a user before the target, which item is the target?

    Attributes:
        user_E: (E,) int32, the user.
        target_E: (E,) int64, where the target lies in Catalog.item_M. The history is
            item_M[offsets_U1[user]:target] and is never empty.
    """

    user_E: np.ndarray
    target_E: np.ndarray


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

    Attributes:
        kind: leave_one_out or time.
        validation_share: time only; the share of all events, by time, in [t1, t2).
        test_share: time only; the share of all events from t2 on.
    """

    kind: str = "leave_one_out"
    validation_share: float = 0.1
    test_share: float = 0.1

    def check(self) -> None:
        """Raise UserError for an unknown kind, or shares that leave no events to a part of the time split."""
        require(self.kind in KINDS, "split.kind", self.kind, " or ".join(KINDS))
        if self.kind == "time":
            for name in ("validation_share", "test_share"):
                share = getattr(self, name)
                require(0 < share < 1, f"split.{name}", share, "a share above 0 and below 1")
            fits = self.validation_share + self.test_share < 1
            expected = f"below 1 together with split.test_share={self.test_share}"
            require(fits, "split.validation_share", self.validation_share, expected)

    def build(self, catalog: Catalog) -> Split:
        """Divide a catalogue's events.

        Raises:
            UserError: unknown kind, shares outside (0, 1), or a part of the split is empty.
        """
        self.check()
        if self.kind == "leave_one_out":
            split = leave_one_out(catalog.offsets_U1)
            longest = np.diff(catalog.offsets_U1).max(initial=0)
            cause = f"test, validation and training need a user with 2, 3 and 4 events, and none has over {longest}"
            way_out = "Give data with longer histories, or set split.kind=time."
        else:
            split = by_time(catalog.offsets_U1, catalog.time_M, self.validation_share, self.test_share)
            cause = f"the shares are {self.validation_share} and {self.test_share} of {catalog.num_events} events"
            way_out = "Change split.validation_share and split.test_share, or use split.kind=leave_one_out."
        for name, examples in split._asdict().items():
            if len(examples.user_E) == 0:
                raise UserError(f"split.kind={self.kind} leaves no {name} example: {cause}. {way_out}")
        return split


def leave_one_out(offsets_U1: np.ndarray) -> Split:
    """Test on the last event of each user, validate on the one before, train on the rest."""
    user_M, index_M, left_M = _positions(offsets_U1)
    has_history_M = index_M >= 1
    return Split(
        train=_examples(user_M, has_history_M & (left_M >= 2)),
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


def _positions(offsets_U1: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Per event: its user, how many of the user's events come before it, and how many after."""
    lengths_U = np.diff(offsets_U1)
    user_M = np.repeat(np.arange(len(lengths_U), dtype=np.int32), lengths_U)
    position_M = np.arange(len(user_M))
    return user_M, position_M - offsets_U1[user_M], offsets_U1[user_M + 1] - 1 - position_M


def _examples(user_M: np.ndarray, chosen_M: np.ndarray) -> Examples:
    target_E = np.flatnonzero(chosen_M).astype(np.int64)
    return Examples(user_M[target_E], target_E)
