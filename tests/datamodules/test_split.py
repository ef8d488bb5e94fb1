"""U users, M events, E examples."""

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from datamodules.catalog import ITEM_SCHEMA, USER_SCHEMA, Catalog
from datamodules.split import Examples, SplitConfig, leave_one_out
from datamodules.split import given as given_split
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
    assert np.array_equal(examples.end_E, examples.target_E)
    return [(int(u), int(t - catalog.offsets_U1[u])) for u, t, _ in zip(*examples, strict=True)]


def slow_leave_one_out(times: list[list[int]], train_targets: int) -> dict[str, list[tuple[int, int]]]:
    split: dict[str, list[tuple[int, int]]] = {"train": [], "validation": [], "test": []}
    for user, events in enumerate(times):
        for index in range(1, len(events)):
            left = len(events) - 1 - index
            if left < 2 + (train_targets or len(events)):
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


@given(logs, st.integers(0, 4))
def test_leave_one_out_equals_the_slow_one(times: list[list[int]], train_targets: int):
    catalog = catalog_of(times)
    split = leave_one_out(catalog.offsets_U1, train_targets)
    expected = slow_leave_one_out(times, train_targets)
    assert {name: pairs(e, catalog) for name, e in split._asdict().items()} == expected
    assert all(e.user_E.dtype == np.int32 and e.target_E.dtype == np.int64 for e in split)


@given(logs, st.integers(0, 9))
def test_train_targets_keeps_the_last_of_each_users_training_targets_and_changes_nothing_else(
    times: list[list[int]], train_targets: int
):
    catalog = catalog_of([*times, [1, 2, 3, 4]])
    every = SplitConfig().build(catalog)
    some = SplitConfig(train_targets=train_targets).build(catalog)
    own: dict[int, list[int]] = {}
    for user, target in zip(every.train.user_E.tolist(), every.train.target_E.tolist(), strict=True):
        own.setdefault(user, []).append(target)
    expected = [(user, target) for user, targets in own.items() for target in targets[-train_targets:]]  # [-0:] is all
    assert [*zip(some.train.user_E, some.train.target_E, strict=True)] == expected
    assert np.array_equal(some.train.end_E, some.train.target_E)
    assert pairs(some.validation, catalog) == pairs(every.validation, catalog)
    assert pairs(some.test, catalog) == pairs(every.test, catalog)


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
    config = SplitConfig("time", validation_share=share, test_share=share)
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
    for user, target, end in [*zip(*train, strict=True), *zip(*validation, strict=True), *zip(*test, strict=True)]:
        assert end == target
        assert catalog.offsets_U1[user] < target < catalog.offsets_U1[user + 1]
        assert (catalog.time_M[catalog.offsets_U1[user] : target] <= catalog.time_M[target]).all()
    asked = np.concatenate([validation.target_E, test.target_E])
    assert not np.isin(train.target_E, asked).any()
    last_trained = dict(zip(train.user_E.tolist(), train.target_E.tolist(), strict=True))
    assert all(last_trained.get(int(u), -1) < t for u, t, _ in zip(*validation, strict=True))


@given(logs, st.integers(0, 3))
def test_validation_targets_are_the_newest_training_targets_where_they_are_learnt(
    times: list[list[int]], train_targets: int
):
    catalog = catalog_of([*times, [1, 2, 3, 4]])
    apart = SplitConfig().build(catalog)
    learnt = SplitConfig(train_targets=train_targets, learn_validation=True).build(catalog)
    assert pairs(learnt.test, catalog) == pairs(apart.test, catalog)
    assert pairs(learnt.validation, catalog) == pairs(apart.validation, catalog)
    every = sorted(pairs(apart.train, catalog) + pairs(apart.validation, catalog))
    own: dict[int, list[tuple[int, int]]] = {}
    for user, index in every:
        own.setdefault(user, []).append((user, index))
    assert pairs(learnt.train, catalog) == [pair for mine in own.values() for pair in mine[-train_targets:]]


@given(st.lists(st.lists(st.integers(0, 9), min_size=1, max_size=7), min_size=1, max_size=9), st.floats(0.05, 0.9))
def test_nothing_is_left_of_new_items_but_test_targets(items: list[list[int]], share: float):
    offsets_U1 = np.cumsum([0] + [len(user) for user in items])
    item_M = np.array([item for user in items for item in user], np.int32)
    whole = Catalog(ITEM_SCHEMA.empty_table(), USER_SCHEMA.empty_table(), offsets_U1, item_M, np.arange(len(item_M)))
    config = SplitConfig(cold_share=share)
    different = {user[-1] for user in items if len(user) > 1}
    if round(len(different) * share) == 0:
        with pytest.raises(UserError, match="split.cold_share=.*: expected more: it is less than one"):
            config.known(whole)
        return
    left = config.known(whole)
    kept = [left.item_M[a:b].tolist() for a, b in zip(left.offsets_U1, left.offsets_U1[1:], strict=False)]
    new = set(item_M.tolist()) - {item for user in kept for item in user[:-1]}
    cold = {item for item in different if all(item not in user[:-1] for user in kept)}
    assert [user[-1] for user in kept] == [user[-1] for user in items]
    assert len(cold) >= round(len(different) * share)
    for before, after in zip(items, kept, strict=True):
        gone = set(before[:-1]) - set(after[:-1])
        assert gone <= new & different
        assert after == [item for item in before[:-1] if item not in gone] + before[-1:]
    assert left.time_M.tolist() == sorted(left.time_M.tolist())
    train = leave_one_out(left.offsets_U1).train
    assert not shown_by(left, train) & cold


def shown_by(catalog: Catalog, examples: Examples) -> set[int]:
    """Every item that the examples show or ask for."""
    return {
        item
        for user, target, _ in zip(*examples, strict=True)
        for item in catalog.item_M[catalog.offsets_U1[user] : target + 1].tolist()
    }


def test_wrong_settings_are_named():
    catalog = catalog_of([[1, 2, 3]])
    with pytest.raises(UserError, match="split.kind=random: expected leave_one_out or time"):
        SplitConfig("random").build(catalog)
    with pytest.raises(UserError, match="split.test_share=0: expected a share above 0"):
        SplitConfig("time", validation_share=0.5, test_share=0).build(catalog)
    with pytest.raises(UserError, match="split.validation_share=0.5: expected below 1 together with split.test_share"):
        SplitConfig("time", validation_share=0.5, test_share=0.5).build(catalog)
    with pytest.raises(UserError, match="split.cold_share=1: expected a share from 0 to below 1"):
        SplitConfig(cold_share=1).build(catalog)
    with pytest.raises(UserError, match="split.cold_share=0.1: expected split.kind=leave_one_out with it, not time"):
        SplitConfig("time", cold_share=0.1).build(catalog)
    with pytest.raises(UserError, match="split.learn_validation=True: expected split.kind=leave_one_out with it"):
        SplitConfig("given", learn_validation=True).build(catalog)
    with pytest.raises(UserError, match="split.train_targets=-1: expected at least 0"):
        SplitConfig(train_targets=-1).build(catalog)
    with pytest.raises(UserError, match="split.train_targets=3: expected 0 with kind=given"):
        SplitConfig("given", train_targets=3).build(catalog)


@pytest.mark.parametrize(("longest", "part"), [(1, "validation|test|train"), (2, "train"), (3, "train")])
def test_histories_too_short_for_a_part_are_refused(longest: int, part: str):
    catalog = catalog_of([list(range(longest))] * 3)
    message = rf"split.kind=leave_one_out leaves no ({part}) example: .* none has over {longest}\. .*split.kind=time"
    with pytest.raises(UserError, match=message):
        SplitConfig().build(catalog)
    assert len(SplitConfig().build(catalog_of([[1, 2, 3, 4]])).train.user_E) == 1


@st.composite
def divided(draw: st.DrawFn) -> Catalog:
    """Users of a training and a test part, with a few events and targets; every event is an item of its own."""
    users = draw(
        st.lists(st.tuples(st.sampled_from(["train", "test"]), st.integers(0, 4), st.integers(0, 3)), min_size=1)
    )
    users = [(part, history, targets) for part, history, targets in users if history + targets]
    offsets_U1 = np.cumsum([0] + [history + targets for _, history, targets in users])
    columns = [[f"u{n}" for n in range(len(users))], [part for part, _, _ in users], [n for _, _, n in users]]
    table = pa.table(dict(zip(USER_SCHEMA.names, columns, strict=True)), schema=USER_SCHEMA)
    item_M = np.arange(offsets_U1[-1], dtype=np.int32)
    return Catalog(ITEM_SCHEMA.empty_table(), table, offsets_U1, item_M, np.zeros(len(item_M), np.int64))


@given(divided(), st.sampled_from([0.1, 0.5]))
def test_the_given_split_divides_by_user_and_shows_no_target_to_itself_or_its_siblings(catalog: Catalog, share: float):
    rows = catalog.users.to_pylist()
    training = [user for user, row in enumerate(rows) if row["part"] == "train"]
    split = given_split(catalog, share)
    users = [set(examples.user_E.tolist()) for examples in split]
    assert not users[0] & users[1] and not users[0] & users[2] and not users[1] & users[2]
    assert users[0] | users[1] <= set(training) and len(users[1]) <= round(len(training) * share)
    asked: list[tuple[int, int]] = []
    for examples in split:
        for user, target, end in zip(*examples, strict=True):
            start, stop, targets = catalog.offsets_U1[user], catalog.offsets_U1[user + 1], rows[user]["targets"]
            assert start < end == stop - targets <= target < stop
            asked.append((int(user), int(target)))
    everything = [
        (user, int(target))
        for user, row in enumerate(rows)
        for target in range(catalog.offsets_U1[user + 1] - row["targets"], catalog.offsets_U1[user + 1])
        if catalog.offsets_U1[user + 1] - row["targets"] > catalog.offsets_U1[user]
    ]
    assert sorted(asked) == sorted(everything)
    again = given_split(catalog, share)
    assert all(
        np.array_equal(one, other) for a, b in zip(split, again, strict=True) for one, other in zip(a, b, strict=True)
    )


def test_a_given_split_with_an_empty_part_is_refused():
    def catalog(parts: list[str | None]) -> Catalog:
        columns = [[str(n) for n in range(len(parts))], parts, [1 if part else None for part in parts]]
        users = pa.table(dict(zip(USER_SCHEMA.names, columns, strict=True)), schema=USER_SCHEMA)
        times = np.zeros(2 * len(parts), np.int64)
        return Catalog(ITEM_SCHEMA.empty_table(), users, np.arange(len(parts) + 1) * 2, times.astype(np.int32), times)

    config = SplitConfig("given", validation_share=0.5)
    assert [len(examples.user_E) for examples in config.build(catalog(["train", "train", "test"]))] == [1, 1, 1]
    for parts, empty in ((["train", "train"], "test"), (["test"], "train"), ([None, None], "train")):
        with pytest.raises(UserError, match=f"split.kind=given leaves no {empty} example: .*divided already"):
            config.build(catalog(parts))
    with pytest.raises(UserError, match="leaves no validation example: .* validation_share=0.1"):
        SplitConfig("given", validation_share=0.1).build(catalog(["train", "train", "test"]))
    with pytest.raises(UserError, match="split.validation_share=1: expected a share above 0 and below 1"):
        SplitConfig("given", validation_share=1).build(catalog(["train", "test"]))


def test_data_that_comes_divided_is_not_divided_otherwise():
    users = pa.table([["a", "b"], ["train", "test"], [1, 1]], USER_SCHEMA.names).cast(USER_SCHEMA)
    item_M = np.arange(12)
    catalog = Catalog(ITEM_SCHEMA.empty_table(), users, np.array([0, 6, 12]), item_M, item_M)
    for kind in ("leave_one_out", "time"):
        with pytest.raises(UserError, match="comes divided into training and test: set given"):
            SplitConfig(kind).build(catalog)
