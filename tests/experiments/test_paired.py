"""Two sets of runs on the same targets, beside slow twins. E examples, R rows of a file, U users, D draws, K ranks."""

import itertools
import math
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from callbacks.metrics import RankMetrics
from callbacks.recommendations import RecommendationFile
from datamodules.catalog import ITEM_SCHEMA, USER_SCHEMA, Catalog
from datamodules.split import Examples
from experiments.paired import (
    change,
    equal_users,
    history_lengths,
    quartiles,
    read_scores,
    resampled,
    scores,
    target_ranks,
)
from sid.decode import Recommendations
from sid.errors import UserError

NUM_ITEMS = 30


class Batch:
    def __init__(self, user_B: torch.Tensor, target_B: torch.Tensor) -> None:
        self.user_B, self.target_B = user_B, target_B


def make(targets: list[list[int]]) -> tuple[Catalog, Examples]:
    """A catalogue where user u has u + 1 old events, then the given targets, which share that history."""
    items_U = [[NUM_ITEMS - 1] * (user + 1) + items for user, items in enumerate(targets)]
    offsets_U1 = np.cumsum([0, *map(len, items_U)])
    items = pa.Table.from_pylist([{"item": f"i{n}"} for n in range(NUM_ITEMS)], schema=ITEM_SCHEMA)
    users = pa.Table.from_pylist([{"user": f"u{n}"} for n in range(len(targets))], schema=USER_SCHEMA)
    item_M = np.concatenate(items_U).astype(np.int32)
    catalog = Catalog(items, users, offsets_U1, item_M, np.zeros(len(item_M), np.int64))
    rows = [
        (user, offsets_U1[user] + user + 1 + place) for user, own in enumerate(targets) for place in range(len(own))
    ]
    user_E, target_E = (np.array(column) for column in zip(*rows, strict=True))
    return catalog, Examples(user_E.astype(np.int32), target_E, offsets_U1[user_E] + user_E + 1)


def write(path: Path, catalog: Catalog, test: Examples, items_EK: np.ndarray, by_target: bool = False) -> Path:
    """What the test stage writes of these lists, by the code it is written with."""
    file = RecommendationFile(catalog.items["item"], by_target)
    target_E = torch.from_numpy(catalog.item_M[test.target_E]).long()
    for rows in torch.arange(len(target_E)).flip(0).split(3):
        lists = torch.from_numpy(items_EK)[rows]
        batch = Batch(torch.from_numpy(test.user_E)[rows].long(), target_E[rows])
        file(Recommendations(lists, -torch.arange(lists.shape[1]).expand(lists.shape).float(), None), batch)
    file.write(path)
    return path


@st.composite
def cases(draw: st.DrawFn) -> tuple[list[list[int]], np.ndarray]:
    """Targets by user, some of them twice, and a list of 12 items for every user, of fewer or none for some."""
    targets = draw(st.lists(st.lists(st.integers(0, NUM_ITEMS - 1), min_size=1, max_size=3), min_size=1, max_size=7))
    lengths = [draw(st.sampled_from([12, 12, 4, 0])) for _ in targets]
    lists = [[*draw(st.permutations(range(NUM_ITEMS)))[:length], *[-1] * (12 - length)] for length in lengths]
    return targets, np.array(lists)


@settings(max_examples=60)
@given(cases())
def test_ranks_and_means_are_those_of_the_metrics(tmp_path_factory, case: tuple[list[list[int]], np.ndarray]) -> None:
    targets, items_UK = case
    catalog, test = make(targets)
    items_EK = items_UK[test.user_E]
    path = write(tmp_path_factory.mktemp("lists") / "a.parquet", catalog, test, items_EK)
    rank_E = target_ranks(path, catalog, test)
    wanted_E = [item for items in targets for item in items]
    slow = [
        [*items, *[-1] * 12].index(item) + 1 if item in items[:10] else 0
        for items, item in zip(items_EK.tolist(), wanted_E, strict=True)
    ]
    assert rank_E.tolist() == slow
    metric = RankMetrics([10], [10])
    batch = Batch(torch.from_numpy(test.user_E), torch.tensor(wanted_E))
    metric.update(Recommendations(torch.from_numpy(items_EK), torch.zeros(items_EK.shape), None), batch)
    recall_E, ndcg_E = scores(rank_E[None])
    means = {"recall@10": recall_E.mean(), "ndcg@10": ndcg_E.mean()}
    assert means == pytest.approx({name: float(value) for name, value in metric.compute().items()})


@settings(max_examples=40)
@given(cases(), st.randoms(use_true_random=False))
def test_a_file_with_a_list_for_every_target_is_read_target_by_target(tmp_path_factory, case, random) -> None:
    targets = [sorted(set(items)) for items in case[0]]
    catalog, test = make(targets)
    items_EK = np.array([random.sample(range(NUM_ITEMS), 12) for _ in test.user_E])
    path = write(tmp_path_factory.mktemp("lists") / "a.parquet", catalog, test, items_EK, by_target=True)
    assert pq.read_schema(path).names == ["user", "rank", "item", "raw_id", "score", "target"]
    pairs = zip(items_EK, catalog.item_M[test.target_E], strict=True)
    slow = [list(items).index(item) + 1 if item in items[:10] else 0 for items, item in pairs]
    assert target_ranks(path, catalog, test).tolist() == slow


def test_scores_are_means_over_runs() -> None:
    recall_E, ndcg_E = scores(np.array([[1, 0, 3], [0, 0, 10]]))
    assert recall_E.tolist() == [0.5, 0, 1]
    assert ndcg_E == pytest.approx([0.5, 0, (1 / 2 + 1 / math.log2(11)) / 2])  # rank 3: 1 / log2(4)


def slow_resampled(ours_E: np.ndarray, base_E: np.ndarray, user_E: np.ndarray, draws: int, seed: int) -> np.ndarray:
    """One draw at a time: users written out, as often as they are drawn, and a plain mean over their examples."""
    rows_G3, count_G = equal_users(ours_E, base_E, user_E)
    users = np.unique(user_E).tolist()
    like = {}  # a user for every group
    for user in users:
        mine = user_E == user
        row = (ours_E[mine].sum(), base_E[mine].sum(), mine.sum())
        like[int(np.abs(rows_G3 - row).sum(1).argmin())] = user
    rng = np.random.default_rng(seed)
    means = []
    for _ in range(draws):
        ours, base = [], []
        for group, times in enumerate(rng.multinomial(len(users), count_G / len(users))):
            for _ in range(times):
                ours += ours_E[user_E == like[group]].tolist()
                base += base_E[user_E == like[group]].tolist()
        means.append((np.mean(ours), np.mean(base)))
    return np.array(means)


@settings(max_examples=25)
@given(
    st.lists(
        st.tuples(st.integers(0, 5), st.sampled_from([0, 0.5, 1]), st.sampled_from([0, 1])), min_size=1, max_size=9
    ),
    st.integers(0, 9),
)
def test_the_bootstrap_is_the_one_that_writes_every_drawn_user_out(rows: list[tuple], seed: int) -> None:
    user_E, ours_E, base_E = (np.array(column) for column in zip(*rows, strict=True))
    fast = np.concatenate([*resampled(ours_E, base_E, user_E, 20, seed)])
    np.testing.assert_allclose(fast, slow_resampled(ours_E, base_E, user_E, 20, seed))


def test_draws_do_not_depend_on_how_many_are_made_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    columns = rng.random(50), rng.random(50), np.arange(50)
    whole = np.concatenate([*resampled(*columns, 30, 1)])
    monkeypatch.setattr("experiments.paired.CELLS", 101)
    parts = [*resampled(*columns, 30, 1)]
    assert len(parts) == 15
    np.testing.assert_allclose(np.concatenate(parts), whole)


@settings(max_examples=30)
@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=2, max_size=40), st.integers(1, 4))
def test_a_change_lies_in_its_interval_turns_its_sign_and_is_nothing_against_itself(rows, seed) -> None:
    ours_E, base_E = (np.array(column) / 4 for column in zip(*rows, strict=True))
    user_E = np.arange(len(rows)) // 2
    there, back = change(ours_E, base_E, user_E, 200, seed), change(base_E, ours_E, user_E, 200, seed)
    assert there.difference.low <= there.difference.high
    assert (there.ours, there.base) == pytest.approx((ours_E.mean(), base_E.mean()))
    assert there.difference.value == pytest.approx(-back.difference.value)
    same = change(ours_E, ours_E, user_E, 200, seed)
    assert (same.difference.value, same.difference.low, same.difference.high) == (0, 0, 0)
    if there.base == 0:
        assert not math.isfinite(there.relative.value) and math.isnan(there.relative.low)


def test_the_interval_is_as_wide_as_theory_says_and_the_same_every_time() -> None:
    rng = np.random.default_rng(3)
    base_E = (rng.random(2000) < 0.3).astype(float)
    ours_E = np.where(rng.random(2000) < 0.1, 1 - base_E, base_E)
    found = change(ours_E, base_E, np.arange(2000))
    error = (ours_E - base_E).std() / math.sqrt(2000)
    assert found.difference.high - found.difference.low == pytest.approx(2 * 1.96 * error, rel=0.1)
    assert found.relative.value == pytest.approx(ours_E.mean() / base_E.mean() - 1)
    assert found == change(ours_E, base_E, np.arange(2000))


def test_examples_of_one_user_are_drawn_together() -> None:
    ours_E = np.repeat([1.0, 0.0] * 50, 10)
    together = change(ours_E, np.ones(1000), np.arange(1000) // 10).difference
    apart = change(ours_E, np.ones(1000), np.arange(1000)).difference
    assert together.high - together.low == pytest.approx(math.sqrt(10) * (apart.high - apart.low), rel=0.15)


@given(st.lists(st.integers(1, 12), min_size=1, max_size=60))
def test_quartiles_part_the_examples_by_length(lengths: list[int]) -> None:
    length_E = np.array(lengths)
    groups = quartiles(length_E)
    assert sorted(np.concatenate(groups).tolist()) == list(range(len(lengths)))
    ranges = [(length_E[rows].min(), length_E[rows].max()) for rows in groups]
    assert all(first[1] < second[0] for first, second in itertools.pairwise(ranges))
    if len(set(lengths)) == len(lengths) >= 4:
        sizes = [len(rows) for rows in groups]
        assert len(sizes) == 4 and max(sizes) - min(sizes) <= 1


def test_the_length_of_a_history_counts_all_events_before_the_target() -> None:
    catalog, test = make([[1], [2, 3], [4]])
    assert history_lengths(catalog, test).tolist() == [1, 2, 2, 3]


def test_a_bad_file_of_recommendations_is_named(tmp_path: Path) -> None:
    catalog, test = make([[1], [2]])
    good = write(tmp_path / "good.parquet", catalog, test, np.array([[1, 2], [3, 4]]))
    rows = pq.read_table(good)
    (tmp_path / "torn.parquet").write_bytes(good.read_bytes()[:300])
    pq.write_table(rows.drop(["item"]), tmp_path / "columns.parquet")
    pq.write_table(rows.set_column(1, "rank", pa.array(["1"] * 4)), tmp_path / "words.parquet")
    pq.write_table(rows.slice(0, 2), tmp_path / "half.parquet")
    pq.write_table(rows.set_column(2, "item", pa.array([NUM_ITEMS] * 4)), tmp_path / "other.parquet")
    assert read_scores([good, good], catalog, test).recall_E.tolist() == [1, 0]
    messages = {
        "missing": "missing.parquet cannot be read",
        "torn": "torn.parquet cannot be read",
        "columns": "columns.parquet cannot be read",
        "words": "words.parquet cannot be read",
        "half": "half.parquet lacks 1 of 2 test users",
        "other": "other.parquet belongs to another catalogue",
    }
    for name, message in messages.items():
        with pytest.raises(UserError, match=f"{message}.*force=evaluate"):
            read_scores([good, tmp_path / f"{name}.parquet"], catalog, test)
