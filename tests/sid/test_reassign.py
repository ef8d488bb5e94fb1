"""Legend: N items, L levels, B items that move, K codes of the last level."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from sid.clusters import residual
from sid.collisions import collision_rate, reassign, shares_codes
from sid.tokenizers import LastLevel, assign, assign_apart

SIZE = 4
tables = st.integers(1, 3).flatmap(
    lambda levels: st.lists(st.tuples(*[st.integers(0, SIZE - 1)] * levels), min_size=1, max_size=25)
)


def distances(num_items: int) -> Tensor:
    """(N, K) made up."""
    return torch.rand(num_items, SIZE, generator=torch.Generator().manual_seed(num_items))


@settings(max_examples=50, deadline=None)
@given(tables)
def test_only_last_codes_of_items_that_share_move_and_no_table_of_these_prefixes_has_fewer_collisions(
    codes: list[tuple[int, ...]],
) -> None:
    codes_NL, distance_NK = torch.tensor(codes), distances(len(codes))
    shared_N = shares_codes(codes_NL)
    assert shared_N.tolist() == [codes.count(code) > 1 for code in codes]
    new_NL = reassign(codes_NL, lambda rows_B: distance_NK[rows_B])
    assert torch.equal(new_NL[:, :-1], codes_NL[:, :-1])
    assert torch.equal(new_NL[~shared_N], codes_NL[~shared_N])
    prefixes = [code[:-1] for code in codes]
    possible = sum(min(SIZE, prefixes.count(prefix)) for prefix in set(prefixes))
    assert collision_rate(new_NL) == 1 - possible / len(codes) <= collision_rate(codes_NL)
    assert torch.equal(new_NL, reassign(codes_NL, lambda rows_B: distance_NK[rows_B]))
    assert codes_NL.tolist() == [list(code) for code in codes], "the given table stays as it was"


@pytest.mark.parametrize("seed", range(5))
def test_the_sum_of_distances_is_the_least_of_all_ways_to_tell_the_items_apart(seed: int) -> None:
    # Under prefix 0, item 3 alone has code 1: items 0, 1, 2 may have 0, 2 or 3. Prefix 1 has no collision.
    codes_NL = torch.tensor([[0, 0], [0, 0], [0, 0], [0, 1], [1, 2], [1, 0]])
    distance_NK = torch.rand(6, SIZE, generator=torch.Generator().manual_seed(seed))
    new_NL = reassign(codes_NL, lambda rows_B: distance_NK[rows_B])
    ways = itertools.permutations([0, 2, 3])
    best = min(ways, key=lambda way: sum(distance_NK[item, code].item() for item, code in enumerate(way)))
    assert new_NL.tolist() == [*([0, code] for code in best), [0, 1], [1, 2], [1, 0]]


@pytest.mark.parametrize("seed", range(5))
def test_where_items_are_more_than_codes_the_sum_is_the_least_of_all_ways_to_use_every_code(seed: int) -> None:
    codes_NL = torch.tensor([[0, 0], [0, 0], [0, 0], [0, 1], [0, 1]])
    distance_NK = torch.rand(5, 3, generator=torch.Generator().manual_seed(seed))
    distance_NK[torch.arange(5), codes_NL[:, 1]] = 0.5 * distance_NK.min(1).values
    new_NL = reassign(codes_NL, lambda rows_B: distance_NK[rows_B])
    ways = (way for way in itertools.product(range(3), repeat=5) if len(set(way)) == 3)
    best = min(ways, key=lambda way: sum(distance_NK[item, code].item() for item, code in enumerate(way)))
    assert new_NL[:, 1].tolist() == list(best)


def test_where_items_are_more_than_codes_every_code_gets_one_and_the_others_stay() -> None:
    codes_NL = torch.tensor([[0, 3]] * 6)
    distance_NK = torch.full((6, SIZE), 5.0)
    distance_NK[:, 3] = 0.0
    distance_NK[4, 0], distance_NK[2, 1], distance_NK[5, 2] = 1.0, 1.0, 1.0
    new_NL = reassign(codes_NL, lambda rows_B: distance_NK[rows_B])
    assert new_NL[:, 1].tolist() == [3, 3, 1, 3, 0, 2]


def test_a_residual_tokenizer_tells_apart_the_items_of_a_mapped_file_and_those_that_are_equal() -> None:
    vectors_ND = np.random.default_rng(0).standard_normal((60, 3)).astype(np.float32)
    vectors_ND[50:] = vectors_ND[40:50]
    tokenizer = residual(torch.from_numpy(vectors_ND), [4, 16], seed=0, balanced=True)
    assert isinstance(tokenizer, LastLevel)
    codes_NL = assign(tokenizer, vectors_ND)
    distance_NK = tokenizer.last_distances(torch.from_numpy(vectors_ND), codes_NL)
    assert torch.equal(distance_NK.argmin(1), codes_NL[:, 1])
    new_NL = assign_apart(tokenizer, vectors_ND)
    assert collision_rate(codes_NL) > 0.15 and collision_rate(new_NL) < 0.07
    alone_N = ~shares_codes(codes_NL)
    assert torch.equal(new_NL[alone_N], codes_NL[alone_N])
