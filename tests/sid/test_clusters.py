"""Legend: N items, B vectors, D width, L levels, K codes of a level."""

from itertools import pairwise

import pytest
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from sid.clusters import Residual, Tree, balance, balancing_prices, residual, tree
from sid.kmeans import kmeans, nearest, residual_kmeans


def gaussian(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def crowded(*counts: int, width: int = 6) -> Tensor:
    """Vectors (N, D) of clusters of these numbers of items, far apart."""
    means_KD = 3 * gaussian(len(counts), width, seed=3)
    return means_KD.repeat_interleave(torch.tensor(counts), dim=0) + 0.3 * gaussian(sum(counts), width)


def imbalance(codes_N: Tensor, num_codes: int) -> float:
    """By what share of an equal part the fullest or emptiest code is away from it."""
    count_K = torch.bincount(codes_N, minlength=num_codes)
    return float((count_K * num_codes / len(codes_N) - 1).abs().max())


def slow_residual(tokenizer: Residual, vector_D: Tensor) -> list[int]:
    codes, left_D = [], vector_D.double()
    for centres_KD, prices_K in tokenizer.levels:
        costs = [
            float((left_D - centre_D).square().sum() + price)
            for centre_D, price in zip(centres_KD, prices_K, strict=True)
        ]
        codes.append(costs.index(min(costs)))
        left_D = left_D - centres_KD[codes[-1]]
    return codes


@pytest.mark.parametrize("balanced", [False, True])
def test_residual_codes_equal_a_loop(balanced: bool) -> None:
    vectors_ND = gaussian(120, 6)
    tokenizer = residual(vectors_ND, [8, 3, 5], seed=1, balanced=balanced)
    assert any(prices_K.any() for _, prices_K in tokenizer.levels) == balanced
    for part_BD in (vectors_ND, gaussian(50, 6, seed=1)):
        assert tokenizer.codes(part_BD).tolist() == [slow_residual(tokenizer, vector_D) for vector_D in part_BD]


def test_plain_residual_codes_are_those_of_residual_kmeans() -> None:
    vectors_ND = gaussian(120, 6)
    codes_NL, _ = residual_kmeans(vectors_ND, (8, 3, 5), seed=1)
    assert torch.equal(residual(vectors_ND, [8, 3, 5], seed=1, balanced=False).codes(vectors_ND), codes_NL)


def test_balanced_codes_are_even_where_plain_ones_are_not() -> None:
    vectors_ND = crowded(1200, 400, 160, 40)
    plain_NL, even_NL = (residual(vectors_ND, [9, 9], 1, balanced).codes(vectors_ND) for balanced in (False, True))
    assert imbalance(plain_NL[:, 0], 9) > 0.7
    assert all(imbalance(code_N, 9) < 0.15 for code_N in even_NL.unbind(1))


def test_balanced_codes_are_about_even_for_items_that_were_not_there() -> None:
    vectors_ND = gaussian(4000, 6)
    tokenizer = residual(vectors_ND[:2000], [8], seed=1, balanced=True)
    assert imbalance(tokenizer.codes(vectors_ND[2000:])[:, 0], 8) < 0.25


@pytest.mark.parametrize("seed", range(1, 5))
@pytest.mark.parametrize(("num", "width", "size"), [(200, 4, 4), (1000, 16, 16)])
def test_balanced_codes_are_about_even_where_a_few_vectors_are_far(num: int, width: int, size: int, seed: int) -> None:
    far_N = torch.arange(num) % 20 == 0
    vectors_ND = gaussian(num, width, seed=seed) * torch.where(far_N, 1.0, 0.1)[:, None]
    codes_NL = residual(vectors_ND, [size, size], seed, balanced=True).codes(vectors_ND)
    assert all(imbalance(code_N, size) < 0.5 for code_N in codes_NL.unbind(1))


def test_balancing_moves_centres_to_the_means_of_their_items() -> None:
    vectors_ND = crowded(600, 300, 100)
    centres_KD, prices_K = balance(vectors_ND, kmeans(vectors_ND, 6, seed=1))
    codes_N = nearest(vectors_ND, centres_KD, prices_K)
    means_KD = torch.stack([vectors_ND[codes_N == code].mean(0) for code in range(6)])
    assert (means_KD - centres_KD).norm(dim=1).max() < 0.25 * vectors_ND.std()


@pytest.mark.parametrize("seed", range(4))
def test_prices_reach_nearly_the_least_cost_of_an_even_assignment(seed: int) -> None:
    """60 vectors to 5 bins of 12, against scipy's assignment to 12 copies of every bin."""
    distance_NK = torch.cdist(gaussian(60, 2, seed=seed), gaussian(5, 2, seed=seed + 9)).square()
    codes_N = (distance_NK + balancing_prices(distance_NK)).argmin(1)
    rows, copies = linear_sum_assignment(distance_NK.repeat_interleave(12, dim=1).numpy())
    least = float(distance_NK[rows, copies // 12].sum())
    assert float(distance_NK[torch.arange(60), codes_N].sum()) == pytest.approx(least, rel=0.05)
    assert imbalance(codes_N, 5) < 2.5 / 12
    assert float(distance_NK.min(1).values.sum()) < 0.95 * least, "nearest centres alone would do"


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_prices_even_out_bins_at_any_scale_and_from_old_prices_too(scale: float) -> None:
    distance_NK = scale * torch.cdist(crowded(1000, 600, 300, 100), 3 * gaussian(10, 6, seed=3)).square()
    cold_K = balancing_prices(distance_NK)
    assert imbalance(distance_NK.argmin(1), 10) > 1
    for prices_K in (cold_K, balancing_prices(distance_NK, cold_K), balancing_prices(distance_NK, 0.9 * cold_K)):
        assert imbalance((distance_NK + prices_K).argmin(1), 10) < 0.15


def test_prices_of_equal_vectors_and_of_a_single_bin_are_finite() -> None:
    for distance_NK in (torch.zeros(9, 4), torch.ones(9, 4), gaussian(9, 1).square(), torch.tensor([[0.0, 1e9]] * 9)):
        assert balancing_prices(distance_NK).isfinite().all()


def slow_tree(tokenizer: Tree, vector_D: Tensor, level: int = 0, node: int = 0) -> list[int]:
    if level == len(tokenizer.children):
        return []
    *before, own_KD = tokenizer.children[level][: node + 1]
    distances = [float((vector_D - centre_D).square().sum()) for centre_D in own_KD]
    code = distances.index(min(distances))
    return [code, *slow_tree(tokenizer, vector_D, level + 1, sum(map(len, before)) + code)]


def test_codes_of_a_tree_equal_a_recursion() -> None:
    vectors_ND = gaussian(200, 6)
    tokenizer = tree(vectors_ND, [5, 4, 3], seed=1)
    for part_BD in (vectors_ND, gaussian(100, 6, seed=1)):
        assert tokenizer.codes(part_BD).tolist() == [slow_tree(tokenizer, vector_D) for vector_D in part_BD]


def test_children_of_a_node_are_the_means_of_its_own_items() -> None:
    vectors_ND = gaussian(300, 4)
    tokenizer = tree(vectors_ND, [4, 3], seed=1)
    codes_NL = tokenizer.codes(vectors_ND)
    assert len(codes_NL.unique(dim=0)) == 12
    for first, children_KD in enumerate(tokenizer.children[1]):
        here_N = codes_NL[:, 0] == first
        for second, centre_D in enumerate(children_KD):
            mean_D = vectors_ND[here_N & (codes_NL[:, 1] == second)].mean(0)
            assert (mean_D - centre_D).norm() < 0.3, "k-means that has nearly settled"


def test_every_level_of_a_tree_brings_items_of_equal_codes_closer_together() -> None:
    vectors_ND = gaussian(300, 4)
    codes_NL = tree(vectors_ND, [4, 4, 4], seed=1).codes(vectors_ND)
    spreads = [float(vectors_ND.var(0, correction=0).sum())]
    for level in (1, 2, 3):
        _, node_N = codes_NL[:, :level].unique(dim=0, return_inverse=True)
        means = torch.stack([vectors_ND[node_N == node].mean(0) for node in node_N.unique()])
        spreads.append(float((vectors_ND - means[node_N]).square().sum(1).mean()))
    assert all(after < 0.7 * before for before, after in pairwise(spreads)), spreads


def test_a_tree_leads_no_vector_to_a_node_without_children() -> None:
    """Three different vectors, 8 codes: k-means leaves most of its centres without an item."""
    vectors_ND = gaussian(3, 4).repeat(100, 1)
    tokenizer = tree(vectors_ND, [8, 8], seed=1)
    assert len(tokenizer.codes(vectors_ND).unique(dim=0)) == 3
    assert len(tokenizer.codes(2 * gaussian(500, 4, seed=1)).unique(dim=0)) == 3


def test_a_tree_may_have_more_paths_than_an_integer_can_number() -> None:
    vectors_ND = gaussian(60, 4)
    deep_NL = tree(vectors_ND, [16] * 20, seed=1).codes(vectors_ND)  # 2^80 paths
    assert torch.equal(deep_NL[:, :4], tree(vectors_ND, [16] * 4, seed=1).codes(vectors_ND))
    assert len(deep_NL.unique(dim=0)) == 60


def test_a_small_node_gives_each_of_its_vectors_a_child() -> None:
    vectors_ND = crowded(40, 3)
    codes_NL = tree(vectors_ND, [2, 4], seed=1).codes(vectors_ND)
    small_N = codes_NL[:, 0] == codes_NL[-1, 0]
    assert small_N.sum() == 3 and len(codes_NL[small_N].unique(dim=0)) == 3
