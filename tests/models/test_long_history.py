"""Legend: B users, T items of the long history, N items, D vector width, A codes of the first level, K codes asked for
a user, R items found for each, X similar codes, P and Z as in `models.long_history`."""

from pathlib import Path
from random import Random

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from models import long_history
from models.long_history import (
    Buckets,
    buckets,
    counters,
    nearest_codes,
    prototypes,
    retrieve,
    tier_counters,
    tier_edges,
    tier_shares,
    tiers,
)

CLOSE = 1e-5


class Catalogue:
    """Items with random vectors and first codes, some of which nobody has."""

    def __init__(self, seed: int, num_items: int, width: int, num_codes: int) -> None:
        draw = np.random.default_rng(seed)
        self.num_codes = num_codes
        self.vectors_ND = draw.normal(1, 1, (num_items, width)).astype(np.float32)
        self.first_N = torch.from_numpy(draw.integers(0, num_codes, num_items))

    def slow_prototypes(self) -> np.ndarray:
        """(A, D) in double precision; the sums of the centred vectors are not yet of unit length."""
        vectors_ND = self.vectors_ND.astype(np.float64)
        sum_AD = np.zeros((self.num_codes, vectors_ND.shape[1]))
        for code, vector_D in zip(self.first_N.tolist(), vectors_ND, strict=True):
            sum_AD[code] += vector_D - vectors_ND.mean(0)
        return sum_AD


catalogues = st.builds(Catalogue, st.integers(0, 10**6), st.integers(1, 30), st.integers(1, 5), st.integers(1, 9))


@given(catalogues)
def test_a_prototype_is_the_unit_length_mean_of_a_codes_centred_vectors(items: Catalogue) -> None:
    found_AD, mean_D = prototypes(items.first_N, items.vectors_ND, items.num_codes)
    assert found_AD.dtype == mean_D.dtype == torch.float32
    np.testing.assert_allclose(mean_D, items.vectors_ND.astype(np.float64).mean(0), rtol=CLOSE, atol=CLOSE)
    for code, expected_D in enumerate(items.slow_prototypes()):
        length = np.linalg.norm(expected_D)
        if code not in items.first_N:
            assert found_AD[code].count_nonzero() == 0
        elif length > 1e-3:  # else the items of the code lie around the mean of all: no direction
            np.testing.assert_allclose(found_AD[code], expected_D / length, rtol=CLOSE, atol=CLOSE)


def test_the_published_edges_for_four_tiers_and_even_ones_otherwise() -> None:
    assert tier_edges(4).tolist() == pytest.approx([-0.1, 0, 0.1])
    assert tier_edges(1).tolist() == []
    assert tier_edges(2).tolist() == [0]
    assert tier_edges(5).tolist() == pytest.approx([-0.6, -0.2, 0.2, 0.6])
    for num_tiers in range(1, 256):
        edges = tier_edges(num_tiers)
        assert len(edges) == num_tiers - 1
        assert (edges.diff() > 0).all() and (edges.abs() < 1).all()


@settings(max_examples=60)
@given(catalogues, st.integers(1, 20))
def test_tiers_equal_a_loop_over_items_and_codes(items: Catalogue, num_tiers: int) -> None:
    prototypes_AD, mean_D = prototypes(items.first_N, items.vectors_ND, items.num_codes)
    edges = tier_edges(num_tiers)
    tier_NA = tiers(torch.from_numpy(items.vectors_ND), prototypes_AD, mean_D, edges)
    assert tier_NA.shape == (len(items.vectors_ND), items.num_codes)
    for item, vector_D in enumerate(items.vectors_ND.astype(np.float64)):
        centred_D = vector_D - mean_D.numpy().astype(np.float64)
        if np.linalg.norm(centred_D) < 1e-3:
            continue
        for code, prototype_D in enumerate(prototypes_AD.double().numpy()):
            cosine = centred_D @ prototype_D / np.linalg.norm(centred_D)
            tier = sum(edge <= cosine for edge in edges.tolist())
            near_an_edge = any(0 < abs(edge - cosine) < CLOSE for edge in edges.tolist())
            assert near_an_edge or tier_NA[item, code] == tier


def test_a_cosine_on_an_edge_belongs_to_the_tier_above_and_one_and_minus_one_to_the_outer_tiers() -> None:
    vectors_ND = np.array([[3, 0], [-3, 0], [0, 2], [0, 0]], dtype=np.float32)
    prototypes_AD = torch.tensor([[1.0, 0], [0, 0]])  # nobody has the second code
    # Cosines with the first: 1, -1, 0, and 0 for the item that lies on the mean.
    assert tiers(torch.from_numpy(vectors_ND), prototypes_AD, torch.zeros(2), tier_edges(4)).tolist() == [
        [3, 2],
        [0, 2],
        [2, 2],
        [2, 2],
    ]


@pytest.mark.parametrize("piece", [1, 3, 7, 20])
def test_vectors_read_in_pieces_from_a_file_give_the_same(
    piece: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    items = Catalogue(0, 20, 5, 6)
    whole_AD, mean_D = prototypes(items.first_N, items.vectors_ND, 6)
    whole_PNZ = tier_counters(items.vectors_ND, whole_AD, mean_D, tier_edges(4))
    tier_NA = tiers(torch.from_numpy(items.vectors_ND), whole_AD, mean_D, tier_edges(4))
    assert torch.equal(whole_PNZ[:, :-1], counters(tier_NA, 4)) and not whole_PNZ[:, -1].any()
    np.save(tmp_path / "vectors.npy", items.vectors_ND)
    mapped_ND = np.load(tmp_path / "vectors.npy", mmap_mode="r")
    monkeypatch.setattr(long_history, "CHUNK_ITEMS", piece)
    pieces_AD, same_D = prototypes(items.first_N, mapped_ND, 6)
    assert torch.equal(pieces_AD, whole_AD) and torch.equal(same_D, mean_D)
    assert torch.equal(tier_counters(mapped_ND, whole_AD, mean_D, tier_edges(4)), whole_PNZ)


@given(st.integers(0, 10**6), st.integers(1, 12), st.data())
def test_the_nearest_codes_are_those_of_the_highest_cosines_without_itself(
    seed: int, num_codes: int, data: st.DataObject
) -> None:
    count = data.draw(st.integers(0, num_codes - 1))
    draw = torch.Generator().manual_seed(seed)
    prototypes_AD = torch.nn.functional.normalize(torch.randn(num_codes, 3, generator=draw), dim=1)
    near_AX = nearest_codes(prototypes_AD, count)
    assert near_AX.shape == (num_codes, count)
    for code, near_X in enumerate(near_AX.tolist()):
        cosine = (prototypes_AD @ prototypes_AD[code]).tolist()
        others = sorted((other for other in range(num_codes) if other != code), key=lambda other: -cosine[other])
        assert near_X == others[:count]


def test_a_code_without_items_is_nobodys_neighbour_while_there_are_others() -> None:
    prototypes_AD = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, 0.0]])
    assert nearest_codes(prototypes_AD, 1)[:2].tolist() == [[1], [0]]


def padded(rows: list[list[int]], width: int) -> Tensor:
    """(B, T) the rows, -1 behind."""
    return torch.tensor([row + [-1] * (width - len(row)) for row in rows], dtype=torch.long).view(len(rows), width)


def shares(long_BT: Tensor, tier_NA: Tensor, num_tiers: int) -> Tensor:
    """(B, A, tiers) by counters."""
    of_none_1A = torch.full((1, tier_NA.shape[1]), num_tiers - 1)
    counters_PNZ = counters(torch.cat([tier_NA, of_none_1A]), num_tiers)
    return tier_shares(long_BT, counters_PNZ, num_tiers, tier_NA.shape[1])


def slow_shares(long_T: list[int], tier_NA: Tensor, num_tiers: int) -> list[list[float]]:
    """The slow twin for one user: (A, tiers)."""
    items = [item for item in long_T if item >= 0]
    share = [[0.0] * num_tiers for _ in range(tier_NA.shape[1])]
    for item in items:
        for code, tier in enumerate(tier_NA[item].tolist()):
            share[code][tier] += 1 / len(items)
    return share


@st.composite
def tiers_and_histories(draw: st.DrawFn) -> tuple[Tensor, int, Tensor]:
    """A tier table, the number of tiers, and long histories with padding in any places."""
    num_items, num_codes, num_tiers = draw(st.integers(1, 9)), draw(st.integers(1, 20)), draw(st.integers(1, 20))
    tier_NA = torch.from_numpy(np.random.default_rng(draw(st.integers(0, 10**6))).integers(0, num_tiers, (9, 20)))
    width = draw(st.integers(0, 12))
    rows = draw(st.lists(st.lists(st.integers(-1, num_items - 1), min_size=width, max_size=width), min_size=1))
    return tier_NA[:num_items, :num_codes], num_tiers, padded(rows, width)


@settings(max_examples=60)
@given(tiers_and_histories(), st.randoms())
def test_tier_shares_equal_a_count_whatever_the_order_of_the_items(
    problem: tuple[Tensor, int, Tensor], random: Random
) -> None:
    tier_NA, num_tiers, long_BT = problem
    shares_BAN = shares(long_BT, tier_NA, num_tiers)
    assert shares_BAN.shape == (len(long_BT), tier_NA.shape[1], num_tiers)
    for shares_AN, long_T in zip(shares_BAN, long_BT.tolist(), strict=True):
        assert shares_AN.tolist() == [pytest.approx(row) for row in slow_shares(long_T, tier_NA, num_tiers)]
        sums_A = shares_AN.sum(1)
        torch.testing.assert_close(sums_A, torch.full_like(sums_A, any(item >= 0 for item in long_T)))
    order_T = list(range(long_BT.shape[1]))
    random.shuffle(order_T)
    assert torch.equal(shares(long_BT[:, order_T], tier_NA, num_tiers), shares_BAN)


@pytest.mark.parametrize("length", [254, 255, 256, 510, 511, 1000])
@pytest.mark.parametrize("same", [True, False])
def test_tier_shares_of_more_items_than_a_byte_counts(length: int, same: bool) -> None:
    """`same`: one item over and over, so that every count is as high as it can be."""
    draw = torch.Generator().manual_seed(0)
    tier_NA = torch.randint(0, 3, (7, 11), generator=draw)
    items_T = torch.randint(0, 1 if same else 7, (length,), generator=draw)
    long_BT = torch.stack([items_T, items_T.masked_fill(torch.arange(length) >= 200, -1)])
    for shares_AN, long_T in zip(shares(long_BT, tier_NA, 3), long_BT.tolist(), strict=True):
        torch.testing.assert_close(shares_AN, torch.tensor(slow_shares(long_T, tier_NA, 3)))


def test_as_many_tiers_as_there_may_be() -> None:
    tier_NA = torch.tensor([[0, 254], [254, 7]])
    shares_AN = shares(torch.tensor([[0, 1, 1, -1]]), tier_NA, 255)[0]
    assert shares_AN.count_nonzero() == 4
    assert shares_AN[0, [0, 254]].tolist() == pytest.approx([1 / 3, 2 / 3])
    assert shares_AN[1, [254, 7]].tolist() == pytest.approx([1 / 3, 2 / 3])


class Histories:
    """First codes of all items, and long histories with padding in any places."""

    def __init__(self, first: list[int], num_codes: int, rows: list[list[int]], width: int) -> None:
        self.first, self.num_codes, self.rows = first, num_codes, rows
        self.first_N, self.long_BT = torch.tensor(first), padded(rows, width)

    def sorted(self) -> Buckets:
        return buckets(self.long_BT, self.first_N, self.num_codes)

    def of_code(self, user: int, code: int) -> list[int]:
        """The items of a code, oldest first."""
        return [item for item in self.rows[user] if item >= 0 and self.first[item] == code]


@st.composite
def histories(draw: st.DrawFn) -> Histories:
    num_codes = draw(st.integers(1, 5))
    first = draw(st.lists(st.integers(0, num_codes - 1), min_size=1, max_size=8))
    width = draw(st.integers(0, 14))
    one = st.lists(st.integers(-1, len(first) - 1), min_size=width, max_size=width)
    return Histories(first, num_codes, draw(st.lists(one, min_size=1, max_size=4)), width)


@given(histories())
def test_every_bucket_holds_the_items_of_its_code_oldest_first_and_padding_lies_behind(some: Histories) -> None:
    item_BT, start_BA1 = some.sorted()
    assert item_BT.shape == some.long_BT.shape
    for user, (items, start) in enumerate(zip(item_BT.tolist(), start_BA1.tolist(), strict=True)):
        assert len(start) == some.num_codes + 1 and start[0] == 0
        for code in range(some.num_codes):
            assert items[start[code] : start[code + 1]] == some.of_code(user, code)
        assert items[start[-1] :] == [-1] * some.rows[user].count(-1)


def test_buckets_of_more_codes_than_sixteen_bits_hold() -> None:
    item_BT, start_BA1 = buckets(torch.tensor([[2, 0, -1, 1, 2]]), torch.tensor([39_999, 0, 32_768]), 40_000)
    assert item_BT.tolist() == [[1, 2, 2, 0, -1]]
    assert start_BA1.shape == (1, 40_001)
    assert start_BA1[0, [0, 1, 32_768, 32_769, 39_999, 40_000]].tolist() == [0, 1, 1, 3, 3, 4]


def slow_retrieve(some: Histories, user: int, code: int, most: int, near: list[list[int]], few: int) -> list[int]:
    """The slow twin for one user and code; -1 behind."""
    found = some.of_code(user, code)[::-1]
    if len(found) < few:
        for other in near[code]:
            found += some.of_code(user, other)[::-1]
    return (found + [-1] * most)[:most]


@settings(max_examples=200)
@given(histories(), st.integers(1, 20), st.integers(0, 5), st.data())
def test_retrieval_equals_a_loop(some: Histories, most: int, few: int, data: st.DataObject) -> None:
    neighbours = data.draw(st.integers(0, some.num_codes - 1))
    others = [[other for other in range(some.num_codes) if other != code] for code in range(some.num_codes)]
    near = [data.draw(st.permutations(rest))[:neighbours] for rest in others]
    codes_BK = torch.tensor(
        [data.draw(st.lists(st.integers(0, some.num_codes - 1), min_size=3, max_size=3)) for _ in some.rows]
    )
    near_AX = torch.tensor(near, dtype=torch.long).view(some.num_codes, neighbours)
    items_BKR = retrieve(some.sorted(), codes_BK, most, near_AX, few)
    assert items_BKR.tolist() == [
        [slow_retrieve(some, user, code, most, near, few) for code in codes]
        for user, codes in enumerate(codes_BK.tolist())
    ]


def test_the_most_recent_items_of_the_code_come_first_and_its_neighbours_only_where_it_has_too_few() -> None:
    some = Histories([0, 0, 0, 1, 1, 2], 3, [[0, 3, 1, 5, 2, 4]], 7)
    near_AX = torch.tensor([[1, 2], [2, 0], [1, 0]])

    def found(most: int, few: int, near_AX: Tensor = near_AX) -> list[list[int]]:
        return retrieve(some.sorted(), torch.tensor([[0, 1, 2]]), most, near_AX, few)[0].tolist()

    # Code 0 has items 0, 1, 2; code 1 has 3, 4; code 2 has 5: all oldest first.
    assert found(3, few=0) == [[2, 1, 0], [4, 3, -1], [5, -1, -1]]
    assert found(3, few=2) == [[2, 1, 0], [4, 3, -1], [5, 4, 3]]
    assert found(8, few=4) == [
        [2, 1, 0, 4, 3, 5, -1, -1],
        [4, 3, 5, 2, 1, 0, -1, -1],
        [5, 4, 3, 2, 1, 0, -1, -1],
    ]
    assert found(2, few=4) == [[2, 1], [4, 3], [5, 4]]
    assert found(3, few=4, near_AX=near_AX[:, :0]) == found(3, few=0)


def test_an_empty_long_history_brings_nothing_back() -> None:
    near_AX = torch.tensor([[1], [0]])
    for width in (0, 3):
        nothing = Histories([0, 1], 2, [[-1] * width] * 2, width)
        items_BKR = retrieve(nothing.sorted(), torch.tensor([[0, 1, 0]] * 2), 4, near_AX, 1)
        assert items_BKR.shape == (2, 3, 4) and (items_BKR == -1).all()
        assert shares(nothing.long_BT, torch.zeros(2, 2).long(), 4).count_nonzero() == 0
