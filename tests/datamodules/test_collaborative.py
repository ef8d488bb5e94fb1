"""U users, N items, M events, P pairs, C width, G groups."""

import sys
from collections import Counter
from collections.abc import Callable

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from datamodules.catalog import ITEM_SCHEMA, USER_SCHEMA, Catalog
from datamodules.collaborative import DECAY, REACH, SMOOTHING, collaborative, cooccurrence, joined, training_pairs
from datamodules.split import Split, SplitConfig
from sid.errors import UserError

SPLITS = {
    "leave_one_out": SplitConfig(),
    "two_targets": SplitConfig(train_targets=2),
    "validation_learnt": SplitConfig(learn_validation=True),
    "time": SplitConfig("time", validation_share=0.2, test_share=0.2),
    "given": SplitConfig("given", validation_share=0.3),
}


def catalog_of(histories: list[list[int]], divided: bool = False, num_items: int = 0) -> Catalog:
    """Items of every user, in order; everybody's n-th event is at time n. Divided: every third user is for the test."""
    offsets_U1 = np.cumsum([0] + [len(items) for items in histories])
    parts = ["test" if divided and user % 3 == 2 else "train" if divided else None for user in range(len(histories))]
    targets = [2 if part else None for part in parts]
    columns = [[str(user) for user in range(len(histories))], parts, targets]
    users = pa.table(dict(zip(USER_SCHEMA.names, columns, strict=True)), schema=USER_SCHEMA)
    item_M = np.array([item for items in histories for item in items], dtype=np.int32)
    time_M = np.array([time for items in histories for time in range(len(items))], dtype=np.int64)
    num_items = num_items or int(item_M.max()) + 1
    items = pa.table({"item": [str(item) for item in range(num_items)]}).select(["item"])
    nulls = {field.name: pa.nulls(num_items, field.type) for field in list(ITEM_SCHEMA)[1:]}
    return Catalog(pa.table({"item": items["item"], **nulls}, ITEM_SCHEMA), users, offsets_U1, item_M, time_M)


def tastes(num_users: int = 90, groups: int = 3, per_group: int = 8, seed: int = 0) -> list[list[int]]:
    """Users of a group take items of their group alone, item n being of group n % 3."""
    draws = np.random.default_rng(seed)
    own = [np.arange(per_group) * groups + group for group in range(groups)]
    return [draws.choice(own[user % groups], 6, replace=False).tolist() for user in range(num_users)]


def slow_pairs(catalog: Catalog, split: Split) -> Counter[tuple[int, int]]:
    """Every event once that is a training target or in the history of one."""
    events = set()
    for user, target, end in zip(*split.train, strict=True):
        events |= {int(target), *range(int(catalog.offsets_U1[user]), int(end))}
    owner = {event: user for user in range(catalog.num_users) for event in range(*catalog.offsets_U1[user : user + 2])}
    return Counter((owner[event], int(catalog.item_M[event])) for event in events)


@pytest.mark.parametrize("name", SPLITS)
@settings(max_examples=30)
@given(histories=st.lists(st.lists(st.integers(0, 9), min_size=1, max_size=9), max_size=9))
def test_training_pairs_equal_the_slow_ones(name: str, histories: list[list[int]]) -> None:
    always = [[1, 2, 3, 4, 5, 6], [3, 4, 5, 6, 7, 8], [1, 2, 3, 4, 5, 6], [5, 6, 7, 8, 1, 2]]
    catalog = catalog_of([*always, *histories], divided=name == "given")
    split = SPLITS[name].build(catalog)
    pairs = zip(*training_pairs(catalog, split), strict=True)
    assert Counter((int(user), int(item)) for user, item in pairs) == slow_pairs(catalog, split)


def by_als(catalog: Catalog, split: Split) -> torch.Tensor:
    return collaborative(catalog, split, seed=1)


@pytest.mark.parametrize("name", SPLITS)
@pytest.mark.parametrize("vectors", [by_als, cooccurrence])
def test_no_event_that_is_asked_for_has_a_part_in_the_vectors(
    name: str, vectors: Callable[[Catalog, Split], torch.Tensor]
) -> None:
    catalog = catalog_of(tastes(), divided=name == "given")
    split = SPLITS[name].build(catalog)
    before = vectors(catalog, split)
    changed_M = catalog.item_M.copy()
    asked = split.test.target_E
    if not SPLITS[name].learn_validation:
        asked = np.concatenate([split.validation.target_E, asked])
    changed_M[asked] = (changed_M[asked] + 1) % catalog.num_items
    other = Catalog(catalog.items, catalog.users, catalog.offsets_U1, changed_M, catalog.time_M)
    assert len(asked) > 10
    assert torch.equal(vectors(other, SPLITS[name].build(other)), before)
    first = split.train.target_E[0]
    changed_M[first] = (changed_M[first] + 1) % catalog.num_items
    assert not torch.equal(vectors(other, split), before)


def test_items_of_the_same_users_are_closer_than_others() -> None:
    catalog = catalog_of(tastes())
    vectors_NC = collaborative(catalog, SplitConfig().build(catalog), seed=1, width=3)
    assert vectors_NC.shape == (24, 3) and vectors_NC.dtype == torch.float32
    torch.testing.assert_close(vectors_NC.norm(dim=1), torch.ones(24))
    group_N = torch.arange(24) % 3
    same_NN = group_N[:, None] == group_N
    near_NN = vectors_NC @ vectors_NC.T
    others = near_NN[same_NN & ~torch.eye(24, dtype=torch.bool)]
    assert others.min() > near_NN[~same_NN].max() + 0.3


def slow_information(histories: list[list[int]], num_items: int) -> np.ndarray:
    """(N, N) positive pointwise mutual information of the items that meet within these histories."""
    met_NN = np.zeros((num_items, num_items))
    for items in histories:
        for early in range(len(items)):
            for late in range(early + 1, min(early + REACH + 1, len(items))):
                if items[early] != items[late]:
                    met_NN[items[early], items[late]] += DECAY ** (late - early - 1)
                    met_NN[items[late], items[early]] += DECAY ** (late - early - 1)
    power_N = met_NN.sum(1) ** SMOOTHING
    found_NN = np.zeros_like(met_NN)
    for one, other in zip(*met_NN.nonzero(), strict=True):
        expected = met_NN[one].sum() * power_N[other] / power_N.sum()
        found_NN[one, other] = max(0.0, np.log(met_NN[one, other] / expected))
    return found_NN


@settings(max_examples=30, deadline=None)
@given(histories=st.lists(st.lists(st.integers(0, 11), min_size=4, max_size=30), min_size=2, max_size=9))
def test_cooccurrence_is_what_a_loop_over_pairs_and_a_whole_decomposition_give(histories: list[list[int]]) -> None:
    catalog = catalog_of(histories, num_items=12)
    vectors_NC = cooccurrence(catalog, SplitConfig().build(catalog))
    found_NN = slow_information([items[:-2] for items in histories], 12)
    left_NN, strength_N, right_NN = np.linalg.svd(found_NN)
    expected_NN = (left_NN + right_NN.T) * np.sqrt(strength_N)
    length_N1 = np.linalg.norm(expected_NN, axis=1, keepdims=True)
    expected_NN = np.where(length_N1 < 1e-3 * length_N1.max(), 0, expected_NN / np.maximum(length_N1, 1e-12))
    assert vectors_NC.shape == (12, 12) and vectors_NC.dtype == torch.float32
    np.testing.assert_allclose(vectors_NC @ vectors_NC.T, expected_NN @ expected_NN.T, atol=2e-3)


def test_cooccurrence_puts_items_of_the_same_users_together_and_knows_nothing_of_others() -> None:
    """Item 24 is in no history, item 25 in one test event alone, item 26 beside itself in what training sees of it."""
    histories = [*tastes(), [26, 26, 1, 4]]
    histories[0][-1] = 25
    catalog = catalog_of(histories, num_items=27)
    vectors_NC = cooccurrence(catalog, SplitConfig().build(catalog), width=3)
    assert (vectors_NC[24:] == 0).all()
    near_NN = vectors_NC[:24] @ vectors_NC[:24].T
    group_N = torch.arange(24) % 3
    same_NN = group_N[:, None] == group_N
    assert near_NN[same_NN].mean() > near_NN[~same_NN].mean() + 0.5
    assert torch.equal(vectors_NC, cooccurrence(catalog, SplitConfig().build(catalog), width=3))


def test_two_items_that_meet_only_each_other_are_near_and_strangers_to_others() -> None:
    catalog = catalog_of([[0, 1, 9, 9], [2, 3, 9, 9], [4, 5, 6, 9, 9]], num_items=10)
    vectors_NC = cooccurrence(catalog, SplitConfig().build(catalog))
    near_NN = vectors_NC @ vectors_NC.T
    assert near_NN[0, 1] > 0.99 and near_NN[2, 3] > 0.99 and near_NN[4, 5] > 0.5
    assert near_NN[[0, 0, 1, 2], [2, 3, 4, 5]].abs().max() < 1e-3
    assert (vectors_NC[7:] == 0).all()


def test_what_rounding_leaves_of_items_outside_the_strongest_directions_is_no_direction() -> None:
    """The rarest pair surprises most, and has both directions there are."""
    catalog = catalog_of([[0, 1, 9, 9], *[[2, 3, 9, 9], [4, 5, 9, 9]] * 10], num_items=10)
    vectors_NC = cooccurrence(catalog, SplitConfig().build(catalog), width=2)
    torch.testing.assert_close(vectors_NC[:2].norm(dim=1), torch.ones(2))
    assert (vectors_NC[2:] == 0).all()


def test_joined_vectors_have_content_of_length_1_and_the_others_of_their_own() -> None:
    content_ND = np.random.default_rng(0).normal(5, 1, (20, 6))
    others_NC = torch.nn.functional.normalize(torch.randn(20, 4), dim=1)
    others_NC[3] = 0
    both_NE = torch.from_numpy(joined(content_ND, others_NC, 0.5))
    assert both_NE.shape == (20, 10) and both_NE.dtype == torch.float32
    torch.testing.assert_close(both_NE[:, :6].norm(dim=1), torch.ones(20))
    torch.testing.assert_close(both_NE[:, 6:], 0.5 * others_NC)
    unit_ND = content_ND / np.linalg.norm(content_ND, axis=1, keepdims=True)
    less_ND = unit_ND - unit_ND.mean(0)
    expected = torch.from_numpy(less_ND / np.linalg.norm(less_ND, axis=1, keepdims=True)).float()
    torch.testing.assert_close(both_NE[:, :6], expected, atol=1e-5, rtol=1e-5)


def test_the_same_seed_gives_the_same_vectors_and_another_gives_others() -> None:
    catalog = catalog_of(tastes())
    split = SplitConfig().build(catalog)
    one, same, other = (collaborative(catalog, split, seed) for seed in (1, 1, 2))
    assert one.shape == (24, 32)
    assert torch.equal(one, same) and not torch.equal(one, other)


def test_items_without_a_training_event_have_zeros() -> None:
    """Item 24 is in no history, item 25 in one test event alone."""
    histories = tastes()
    histories[0][-1] = 25
    catalog = catalog_of(histories, num_items=26)
    vectors_NC = collaborative(catalog, SplitConfig().build(catalog), seed=1)
    assert (vectors_NC[24:] == 0).all()
    assert (vectors_NC[:24].norm(dim=1) > 0.99).all()


def test_without_implicit_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "implicit.cpu.als", None)
    catalog = catalog_of(tastes())
    with pytest.raises(UserError, match="implicit is missing; install an extra"):
        collaborative(catalog, SplitConfig().build(catalog), seed=1)
