"""Legend: N items, L levels, D width."""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import adjusted_mutual_info_score, adjusted_rand_score, normalized_mutual_info_score
from sklearn.metrics.cluster import contingency_matrix

from sid import diagnostics
from sid.diagnostics import (
    agreement,
    backfitted,
    items_per_prefix,
    least_squares,
    nearest_items,
    neighbourhood,
    prefixes,
    rand_index,
    reconstruction,
)

tables = st.integers(1, 3).flatmap(
    lambda levels: st.lists(st.tuples(*[st.integers(0, 3)] * levels), min_size=2, max_size=25)
)


def gaussian(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def codes(num_items: int, *sizes: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.stack([torch.randint(0, size, (num_items,), generator=generator) for size in sizes], dim=1)


@settings(max_examples=50, deadline=None)
@given(tables)
def test_prefixes_are_shared_by_the_items_whose_codes_begin_alike(rows: list[tuple[int, ...]]) -> None:
    prefix_NL = prefixes(torch.tensor(rows))
    for level in range(len(rows[0])):
        column = prefix_NL[:, level].tolist()
        assert sorted(set(column)) == list(range(len(set(column))))
        for one, prefix in zip(rows, column, strict=True):
            same = [other[: level + 1] == one[: level + 1] for other in rows]
            assert same == [other == prefix for other in column]


def test_items_per_prefix_counts_groups_by_size() -> None:
    codes_NL = torch.tensor([[5, 0], [5, 1], [5, 1], [2, 0], [9, 7]])  # groups of 5, 2, 9: 3, 1, 1 items
    prefix_NL = prefixes(codes_NL)
    assert items_per_prefix(prefix_NL[:, 0]) == [[1, 2], [3, 1]]
    assert items_per_prefix(prefix_NL[:, 1]) == [[1, 3], [2, 1]]


@pytest.mark.parametrize("chunk", [7, 100])
def test_nearest_items_are_those_of_a_sort_and_never_the_item_itself(
    chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(diagnostics, "CHUNK", chunk)
    vectors_ND = gaussian(30, 4).numpy()
    vectors_ND[3] = 5 * vectors_ND[11] + 0.01  # almost the same direction: nearest to each other
    found = nearest_items(vectors_ND, np.arange(30), 5)
    for item, near in enumerate(found.tolist()):
        cosine = [
            v @ vectors_ND[item] / np.linalg.norm(v) / np.linalg.norm(vectors_ND[item]) if other != item else -2
            for other, v in enumerate(vectors_ND)
        ]
        assert near == np.argsort(cosine)[::-1][:5].tolist()
    assert found[3, 0] == 11 and found[11, 0] == 3


def test_neighbourhood_is_a_count_over_neighbours_and_chance_one_over_all_pairs() -> None:
    vectors_ND, codes_NL = gaussian(40, 3).numpy(), codes(40, 3, 2)
    near = nearest_items(vectors_ND, np.arange(40), 10).tolist()
    found = neighbourhood(prefixes(codes_NL), vectors_ND)
    rows = codes_NL.tolist()
    for level in (1, 2):
        shared = [rows[i][:level] == rows[j][:level] for i in range(40) for j in near[i]]
        everywhere = [rows[i][:level] == rows[j][:level] for i in range(40) for j in range(40) if i != j]
        assert found.values[level - 1] == pytest.approx(sum(shared) / 400)
        assert found.chance[level - 1] == pytest.approx(sum(everywhere) / (40 * 39))


def test_codes_of_clusters_keep_neighbours_and_random_codes_do_as_chance_says(monkeypatch: pytest.MonkeyPatch) -> None:
    means_KD = 10 * gaussian(8, 6)
    cluster_N = torch.arange(400) % 8
    vectors_ND = (means_KD[cluster_N] + 0.1 * gaussian(400, 6, seed=1)).numpy()
    clustered, random = (
        neighbourhood(prefixes(codes_NL), vectors_ND) for codes_NL in (cluster_N[:, None], codes(400, 8))
    )
    assert clustered.values == [1.0]
    assert random.values[0] == pytest.approx(random.chance[0], abs=0.02)
    monkeypatch.setattr(diagnostics, "QUERIES", 50)
    assert neighbourhood(prefixes(cluster_N[:, None]), vectors_ND) == clustered


def test_fewer_items_than_neighbours() -> None:
    assert neighbourhood(prefixes(torch.tensor([[0], [0], [1]])), gaussian(3, 2).numpy()).values == [
        pytest.approx(1 / 3)
    ]


def test_of_a_single_item_every_figure_is_finite_or_not_measured() -> None:
    codes_NL, vectors_ND = torch.tensor([[1, 2]]), gaussian(1, 3).numpy()
    near, kept = neighbourhood(prefixes(codes_NL), vectors_ND), reconstruction(codes_NL, (4, 4), vectors_ND)
    assert near == ([None, None], [0.0, 0.0])
    assert all(map(math.isfinite, [*kept.values, *kept.chance, *agreement(*torch.zeros(2, 1, dtype=torch.long))]))


@settings(max_examples=30, deadline=None)
@given(tables, st.integers(0, 100))
def test_reconstruction_is_that_of_least_squares_on_one_hot_codes(rows: list[tuple[int, ...]], seed: int) -> None:
    codes_NL, sizes = torch.tensor(rows), (4,) * len(rows[0])  # not every code is used
    vectors_ND = gaussian(len(rows), 3, seed=seed).numpy()
    centred_ND = vectors_ND - vectors_ND.mean(0)
    found = reconstruction(codes_NL, sizes, vectors_ND)
    for level in range(1, len(sizes) + 1):
        design = torch.nn.functional.one_hot(codes_NL[:, :level], 4).flatten(1).double().numpy()
        left_ND = centred_ND - design @ np.linalg.lstsq(design, centred_ND, rcond=None)[0]
        assert found.values[level - 1] == pytest.approx((left_ND**2).sum() / (centred_ND**2).sum(), abs=1e-5)


def test_random_codes_leave_what_chance_says_and_sums_of_their_vectors_nothing() -> None:
    codes_NL, sizes = codes(2000, 20, 30), (20, 30)
    found = reconstruction(codes_NL, sizes, gaussian(2000, 8).numpy())
    assert found.chance == [1 - 19 / 1999, 1 - 48 / 1999]
    assert found.values == [pytest.approx(chance, abs=0.003) for chance in found.chance]
    sums_ND = gaussian(20, 8)[codes_NL[:, 0]] + gaussian(30, 8, seed=1)[codes_NL[:, 1]]
    assert reconstruction(codes_NL, sizes, sums_ND.numpy()).values[1] == pytest.approx(0, abs=1e-6)


def test_backfitting_comes_near_the_exact_solution_from_above() -> None:
    codes_NL, sizes = codes(500, 12, 9, 14), (12, 9, 14)
    vectors_ND = gaussian(12, 5)[codes_NL[:, 0]] + gaussian(500, 5, seed=1)
    centred_ND = vectors_ND - vectors_ND.mean(0)
    exact = least_squares(codes_NL, sizes, centred_ND)
    assert all(longer <= shorter for shorter, longer in pairwise(exact))
    assert 0 <= backfitted(codes_NL, sizes, centred_ND) - exact[-1] < 1e-4


def test_where_the_codes_are_many_only_the_whole_id_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    codes_NL, vectors_ND = codes(100, 5, 5, 5), gaussian(100, 3).numpy()
    all_of_them = reconstruction(codes_NL, (5, 5, 5), vectors_ND).values
    monkeypatch.setattr(diagnostics, "DENSE", 9)
    first, second, third = reconstruction(codes_NL, (5, 5, 5), vectors_ND).values
    assert (first, second) == (pytest.approx(all_of_them[0]), None)
    assert third == pytest.approx(all_of_them[2], abs=1e-3)
    assert reconstruction(codes_NL, (50, 50, 50), vectors_ND).values == [None, None, None]


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 4)), min_size=1, max_size=30))
def test_information_and_purity_are_those_of_scikit_learn(pairs: list[tuple[int, int]]) -> None:
    group_N, label_N = torch.tensor(pairs).unbind(1)
    found = agreement(group_N, label_N)
    assert found.nmi == pytest.approx(normalized_mutual_info_score(label_N, group_N), abs=1e-9)
    assert found.purity == pytest.approx(contingency_matrix(label_N, group_N).max(0).sum() / len(pairs))
    assert math.isfinite(found.adjusted)
    assert rand_index(group_N, label_N) == pytest.approx(adjusted_rand_score(label_N, group_N), abs=1e-9)


@pytest.mark.parametrize("groups", [5, 60, 1500])
def test_one_shuffle_stands_for_all_in_the_adjusted_information(groups: int) -> None:
    label_N = codes(4000, 12)[:, 0]
    noise_N, group_N = codes(4000, 2, groups, seed=1).unbind(1)
    group_N = torch.where(noise_N == 0, label_N, group_N)
    expected = adjusted_mutual_info_score(label_N, group_N)
    assert agreement(group_N, label_N).adjusted == pytest.approx(expected, abs=3e-3)


def test_the_same_grouping_is_1_and_a_grouping_into_single_items_knows_nothing() -> None:
    label_N = codes(200, 6)[:, 0]
    assert agreement(label_N, label_N).adjusted == pytest.approx(1)
    single = agreement(torch.arange(200), label_N)
    assert (single.adjusted, single.purity, single.purity_chance) == (pytest.approx(0, abs=1e-9), 1.0, 1.0)
    assert single.nmi > 0.3
    assert agreement(torch.zeros(5, dtype=torch.long), torch.zeros(5, dtype=torch.long)).adjusted == 1
