"""Legend: U users, M events, E examples, W windows."""

from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from datamodules.split import Examples, by_time, leave_one_out
from datamodules.windows import Windows, cut_windows


class Problem(NamedTuple):
    examples: Examples
    offsets_U1: np.ndarray
    max_items: int
    stride: int

    def cut(self) -> Windows:
        return cut_windows(*self)

    def targets(self) -> dict[int, list[int]]:
        """The targets of every user who has any."""
        found: dict[int, list[int]] = {}
        for user, target in zip(self.examples.user_E.tolist(), self.examples.target_E.tolist(), strict=True):
            found.setdefault(user, []).append(target)
        return found


def stretches(draw: st.DrawFn, offsets_U1: np.ndarray) -> Examples:
    """Targets of some users anywhere in their events, side by side."""
    users, targets = [], []
    for user, (origin, end) in enumerate(zip(offsets_U1[:-1].tolist(), offsets_U1[1:].tolist(), strict=True)):
        first = draw(st.integers(origin + 1, end))
        last = draw(st.integers(first, end))
        users += [user] * (last - first)
        targets += range(first, last)
    target_E = np.array(targets, dtype=np.int64)
    return Examples(np.array(users, dtype=np.int32), target_E, target_E)


@st.composite
def problems(draw: st.DrawFn) -> Problem:
    """The training examples of either split, or targets anywhere; users with 1 to 30 events."""
    lengths_U = draw(st.lists(st.integers(1, 30), min_size=1, max_size=6))
    offsets_U1 = np.append(0, np.cumsum(lengths_U))
    kind = draw(st.sampled_from(["leave_one_out", "time", "anywhere"]))
    if kind == "leave_one_out":
        examples = leave_one_out(offsets_U1).train
    elif kind == "time":
        times = np.random.default_rng(draw(st.integers(0, 10**6))).integers(0, 50, offsets_U1[-1])
        time_M = np.concatenate([np.sort(part) for part in np.split(times, offsets_U1[1:-1])])
        examples = by_time(offsets_U1, time_M, 0.2, 0.2).train
    else:
        examples = stretches(draw, offsets_U1)
    max_items = draw(st.integers(1, 8))
    return Problem(examples, offsets_U1, max_items, draw(st.integers(1, max_items)))


def rows(windows: Windows) -> list[list[int]]:
    return np.stack(windows, axis=1).tolist()


def slow_windows(problem: Problem) -> list[list[int]]:
    """The slow twin: one user and one window after the other, until no target is left."""
    found = []
    for user, targets in problem.targets().items():
        origin, longest = int(problem.offsets_U1[user]), problem.max_items + 1
        end = origin + longest if targets[0] < origin + longest else targets[0] + problem.stride
        while targets:
            end = min(end, targets[-1] + 1)
            found.append([user, max(origin, end - longest), targets[0], end])
            targets = [target for target in targets if target >= end]
            end += problem.stride
    return found


@given(problems())
def test_windows_equal_those_of_a_loop(problem: Problem) -> None:
    assert rows(problem.cut()) == slow_windows(problem)


@given(problems())
def test_every_target_is_in_one_window_once_with_enough_of_its_own_history(problem: Problem) -> None:
    targets = []
    for user, start, first, end in rows(problem.cut()):
        origin = int(problem.offsets_U1[user])
        assert origin <= start < first < end <= problem.offsets_U1[user + 1]
        assert end - start <= problem.max_items + 1
        for target in range(first, end):
            assert target - start >= min(target - origin, problem.max_items + 1 - problem.stride)
            targets.append((user, target))
    assert sorted(targets) == sorted((user, target) for user, own in problem.targets().items() for target in own)


@given(problems())
def test_users_with_no_more_than_max_items_before_their_last_target_have_one_window_from_their_first_event(
    problem: Problem,
) -> None:
    windows = rows(problem.cut())
    for user, targets in problem.targets().items():
        origin = int(problem.offsets_U1[user])
        if targets[-1] - origin <= problem.max_items:
            assert [row for row in windows if row[0] == user] == [[user, origin, targets[0], targets[-1] + 1]]


@given(problems())
def test_no_window_of_leave_one_out_holds_a_validation_or_test_event(problem: Problem) -> None:
    split = leave_one_out(problem.offsets_U1)
    held_out = {*split.validation.target_E.tolist(), *split.test.target_E.tolist()}
    windows = problem._replace(examples=split.train).cut()
    seen = {event for _, start, _, end in rows(windows) for event in range(start, end)}
    assert not seen & held_out


def test_the_windows_of_a_user_with_ten_events() -> None:
    # Targets 1 to 7: 8 is the validation, 9 the test. Windows hold 4 + 1 items and move on by 2.
    windows = cut_windows(leave_one_out(np.array([0, 10])).train, np.array([0, 10]), max_items=4, stride=2)
    assert rows(windows) == [[0, 0, 1, 5], [0, 2, 5, 7], [0, 3, 7, 8]]


@settings(max_examples=30)
@given(problems())
def test_a_gap_between_the_targets_of_a_user_is_refused(problem: Problem) -> None:
    user_E = problem.examples.user_E
    for row in range(1, len(user_E) - 1):
        if not user_E[row - 1] == user_E[row] == user_E[row + 1]:
            continue  # the first or last of its user leaves no gap
        with pytest.raises(ValueError, match="a user's targets have gaps"):
            problem._replace(examples=problem.examples.only(np.arange(len(user_E)) != row)).cut()
