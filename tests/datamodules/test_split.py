"""U users, M events, E examples."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from datamodules.catalog import ITEM_SCHEMA, USER_SCHEMA, Catalog
from datamodules.split import Examples, SplitConfig, leave_one_out
from sid.errors import UserError


def catalog_of(times: list[list[int]]) -> Catalog:
    """One list of times a user; item_M is not looked at."""
    offsets_U1 = np.cumsum([0] + [len(user) for user in times])
    time_M = np.array([t for user in times for t in sorted(user)], dtype=np.int64)
    return Catalog(
        ITEM_SCHEMA.empty_table(), USER_SCHEMA.empty_table(), offsets_U1, np.zeros(len(time_M), np.int32), time_M
    )


def pairs(examples: Examples, catalog: Catalog) -> list[tuple[int, int]]:
    """(user, how many events come before the target)."""
    return [(int(u), int(t - catalog.offsets_U1[u])) for u, t in zip(*examples, strict=True)]


def slow_leave_one_out(times: list[list[int]]) -> dict[str, list[tuple[int, int]]]:
    split: dict[str, list[tuple[int, int]]] = {"train": [], "validation": [], "test": []}
    for user, events in enumerate(times):
        for index in range(1, len(events)):
            left = len(events) - 1 - index
            split["test" if left == 0 else "validation" if left == 1 else "train"].append((user, index))
    return split


def slow_by_time(times: list[list[int]], t1: int, t2: int) -> dict[str, list[tuple[int, int]]]:
    split: dict[str, list[tuple[int, int]]] = {"train": [], "validation": [], "test": []}
    for user, events in enumerate(sorted(e) for e in times):
        for index in range(1, len(events)):
            before, now = events[index - 1], events[index]
            if now < t1:
                split["train"].append((user, index))
            elif t1 <= now < t2 and before < t1:
                split["validation"].append((user, index))
            elif now >= t2 and before < t2:
                split["test"].append((user, index))
    return split


logs = st.lists(st.lists(st.integers(0, 30), min_size=1, max_size=9), min_size=1, max_size=9)


@given(logs)
def test_leave_one_out_equals_the_slow_one(times: list[list[int]]):
    catalog = catalog_of(times)
    split = leave_one_out(catalog.offsets_U1)
    assert {name: pairs(e, catalog) for name, e in split._asdict().items()} == slow_leave_one_out(times)
    assert all(e.user_E.dtype == np.int32 and e.target_E.dtype == np.int64 for e in split)


def test_leave_one_out_of_one_two_three_and_four_events():
    catalog = catalog_of([[1], [1, 2], [1, 2, 3], [1, 2, 3, 4]])
    split = SplitConfig().build(catalog)
    assert pairs(split.test, catalog) == [(1, 1), (2, 2), (3, 3)]
    assert pairs(split.validation, catalog) == [(2, 1), (3, 2)]
    assert pairs(split.train, catalog) == [(3, 1)]


@given(logs, st.sampled_from([0.1, 0.3]))
def test_the_time_split_equals_the_slow_one_and_never_looks_ahead(times: list[list[int]], share: float):
    catalog = catalog_of(times)
    by_time = sorted(catalog.time_M.tolist())
    t1, t2 = (by_time[min(round(len(by_time) * (1 - s)), len(by_time) - 1)] for s in (2 * share, share))
    expected = slow_by_time(times, t1, t2)
    config = SplitConfig("time", share, share)
    if not all(expected.values()):
        with pytest.raises(UserError, match="leaves no (train|validation|test) example"):
            config.build(catalog)
        return
    split = config.build(catalog)
    assert {name: pairs(e, catalog) for name, e in split._asdict().items()} == expected

    first_question = catalog.time_M[split.validation.target_E].min()
    assert catalog.time_M[split.train.target_E].max() < t1 <= first_question
    assert catalog.time_M[split.validation.target_E - 1].max() < t1
    assert catalog.time_M[split.test.target_E - 1].max() < t2 <= catalog.time_M[split.test.target_E].min()
    for examples in (split.validation, split.test):
        assert len(set(examples.user_E)) == len(examples.user_E)


@given(logs)
def test_no_target_and_nothing_later_is_in_its_history(times: list[list[int]]):
    catalog = catalog_of(times)
    train, validation, test = leave_one_out(catalog.offsets_U1)
    for user, target in [*zip(*train, strict=True), *zip(*validation, strict=True), *zip(*test, strict=True)]:
        assert catalog.offsets_U1[user] < target < catalog.offsets_U1[user + 1]
        assert (catalog.time_M[catalog.offsets_U1[user] : target] <= catalog.time_M[target]).all()
    asked = np.concatenate([validation.target_E, test.target_E])
    assert not np.isin(train.target_E, asked).any()
    last_trained = dict(zip(train.user_E.tolist(), train.target_E.tolist(), strict=True))
    assert all(last_trained.get(int(u), -1) < t for u, t in zip(*validation, strict=True))


def test_wrong_settings_are_named():
    catalog = catalog_of([[1, 2, 3]])
    with pytest.raises(UserError, match="split.kind=random: expected leave_one_out or time"):
        SplitConfig("random").build(catalog)
    with pytest.raises(UserError, match="split.test_share=0: expected a share above 0"):
        SplitConfig("time", 0.5, 0).build(catalog)
    with pytest.raises(UserError, match="split.validation_share=0.5: expected below 1 together with split.test_share"):
        SplitConfig("time", 0.5, 0.5).build(catalog)


@pytest.mark.parametrize(("longest", "part"), [(1, "validation|test|train"), (2, "train"), (3, "train")])
def test_histories_too_short_for_a_part_are_refused(longest: int, part: str):
    catalog = catalog_of([list(range(longest))] * 3)
    message = rf"split.kind=leave_one_out leaves no ({part}) example: .* none has over {longest}\. .*split.kind=time"
    with pytest.raises(UserError, match=message):
        SplitConfig().build(catalog)
    assert len(SplitConfig().build(catalog_of([[1, 2, 3, 4]])).train.user_E) == 1
