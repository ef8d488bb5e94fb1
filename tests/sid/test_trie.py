"""Legend: N items, L levels, B users, K beams, C children."""

import random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from sid.trie import FreeTree, Trie


def codes_of(sizes: tuple[int, ...], numbers: list[int]) -> Tensor:
    """(N, L): every number written in the mixed base `sizes`; different numbers, different codes."""
    every = torch.cartesian_prod(*(torch.arange(size) for size in sizes)).view(-1, len(sizes))
    return every[torch.tensor(numbers)]


@st.composite
def catalogues(draw: st.DrawFn) -> tuple[tuple[int, ...], Tensor]:
    """Codebook sizes of 1 to 4 levels, and distinct codes of at least one item in random order."""
    sizes = tuple(draw(st.lists(st.integers(1, 6), min_size=1, max_size=4)))
    possible = int(torch.tensor(sizes).prod())
    numbers = draw(st.lists(st.integers(0, possible - 1), min_size=1, max_size=40, unique=True))
    return sizes, codes_of(sizes, numbers)


def slow_children(codes_NL: Tensor) -> dict[tuple[int, ...], list[int]]:
    """The slow twin: a dict from every prefix to the sorted codes that continue it."""
    tree: dict[tuple[int, ...], set[int]] = {}
    for codes in codes_NL.tolist():
        for level, code in enumerate(codes):
            tree.setdefault(tuple(codes[:level]), set()).add(code)
    return {prefix: sorted(codes) for prefix, codes in tree.items()}


def walk(trie: Trie) -> tuple[dict[tuple[int, ...], list[int]], dict[tuple[int, ...], int]]:
    """The children of every prefix and the item of every finished one, asked for one node at a time."""
    tree: dict[tuple[int, ...], list[int]] = {}
    frontier = {(): 0}
    for level in range(trie.num_levels):
        below = {}
        for prefix, node in frontier.items():
            codes, nodes, valid = (t[0, 0] for t in trie.children(level, torch.tensor([[node]])))
            tree[prefix] = codes[valid].tolist()
            below |= {(*prefix, int(c)): int(n) for c, n in zip(codes[valid], nodes[valid], strict=True)}
        frontier = below
    items = {prefix: int(trie.items(torch.tensor([[n]]), torch.empty(0))) for prefix, n in frontier.items()}
    return tree, items


@settings(max_examples=50, deadline=None)
@given(catalogues())
def test_children_and_items_equal_those_of_a_dict(catalogue: tuple[tuple[int, ...], Tensor]) -> None:
    _, codes_NL = catalogue
    tree, items = walk(Trie.from_codes(codes_NL))
    assert tree == slow_children(codes_NL)
    assert items == {tuple(codes): item for item, codes in enumerate(codes_NL.tolist())}


@settings(max_examples=50, deadline=None)
@given(catalogues(), st.randoms(use_true_random=False))
def test_a_trie_of_some_items_equals_a_dict_of_these(
    catalogue: tuple[tuple[int, ...], Tensor], rng: random.Random
) -> None:
    sizes, codes_NL = catalogue
    some = rng.sample(range(len(codes_NL)), rng.randint(1, len(codes_NL)))
    trie = Trie.from_codes(codes_NL, torch.tensor(some))
    tree, items = walk(trie)
    assert tree == slow_children(codes_NL[some])
    assert items == {tuple(codes_NL[item].tolist()): item for item in some}
    expected = [item if item in some else -1 for item in range(len(codes_NL))]
    assert trie.find(codes_NL).tolist() == expected == FreeTree(sizes, trie).items(torch.empty(0), codes_NL).tolist()
    assert trie.leaf_item.dtype == torch.int32


def test_children_of_several_beams_at_once_are_padded_to_the_widest_node() -> None:
    trie = Trie.from_codes(torch.tensor([[4, 1], [2, 0], [4, 0], [4, 7]]))
    assert trie.branching == (2, 3)  # the root leads to 2 and 4; 4 leads to 0, 1 and 7
    children = trie.children(1, torch.tensor([[0, 1], [1, 1]]))
    assert children.valid_BKC.tolist() == [[[True, False, False], [True] * 3], [[True] * 3] * 2]
    assert children.codes_BKC[0, 0, 0] == 0
    assert children.codes_BKC[0, 1].tolist() == [0, 1, 7]
    assert trie.items(children.nodes_BKC[0, 1], torch.empty(0)).tolist() == [2, 0, 3]


@settings(max_examples=50, deadline=None)
@given(catalogues())
def test_find_equals_a_dict_for_every_sequence_and_codes_outside_the_codebooks(
    catalogue: tuple[tuple[int, ...], Tensor],
) -> None:
    sizes, codes_NL = catalogue
    items = {tuple(codes): item for item, codes in enumerate(codes_NL.tolist())}
    asked = torch.cartesian_prod(*(torch.arange(-1, size + 2) for size in sizes)).view(-1, len(sizes))
    expected = [items.get(tuple(codes), -1) for codes in asked.tolist()]
    trie = Trie.from_codes(codes_NL)
    assert trie.find(asked).tolist() == expected
    assert trie.find(asked[:4].view(2, -1, len(sizes))).flatten().tolist() == expected[:4]
    assert trie.find(asked[0]).item() == expected[0]


@settings(max_examples=50, deadline=None)
@given(catalogues())
def test_a_prefix_is_lone_that_one_item_starts_with(catalogue: tuple[tuple[int, ...], Tensor]) -> None:
    _, codes_NL = catalogue
    trie, items = Trie.from_codes(codes_NL), codes_NL.tolist()
    for level in range(trie.num_levels):
        prefixes = sorted({tuple(codes[: level + 1]) for codes in items})  # nodes are numbered in this order
        expected = [sum(tuple(codes[: level + 1]) == prefix for codes in items) == 1 for prefix in prefixes]
        assert trie.lone(level, torch.arange(len(prefixes))[None]).tolist() == [expected]


@settings(max_examples=50, deadline=None)
@given(catalogues(), st.data())
def test_an_item_is_alone_from_the_level_on_at_which_no_other_begins_alike(
    catalogue: tuple[tuple[int, ...], Tensor], draw: st.DataObject
) -> None:
    _, codes_NL = catalogue
    items = range(len(codes_NL))
    some = draw.draw(st.lists(st.sampled_from(items), min_size=1, unique=True))
    levels = Trie.from_codes(codes_NL, torch.tensor(some)).alone(len(codes_NL)).tolist()
    among = codes_NL[some].tolist()
    for item, codes in enumerate(codes_NL.tolist()):
        alike = [sum(other[: n + 1] == codes[: n + 1] for other in among) for n in range(len(codes))]
        assert levels[item] == (alike.index(1) if item in some else len(codes))


@settings(max_examples=50, deadline=None)
@given(catalogues(), st.data())
def test_the_best_below_every_node_is_that_of_the_items_with_its_prefix(
    catalogue: tuple[tuple[int, ...], Tensor], draw: st.DataObject
) -> None:
    sizes, codes_NL = catalogue
    some = draw.draw(st.lists(st.integers(0, len(codes_NL) - 1), min_size=1, unique=True))
    worth_BN = torch.randn(2, len(codes_NL), generator=torch.Generator().manual_seed(len(some)))
    best = Trie.from_codes(codes_NL, torch.tensor(some)).best(worth_BN)
    for level, found_Bn in enumerate(best, 1):
        prefixes = sorted({tuple(codes_NL[item, :level].tolist()) for item in some})
        below = [[item for item in some if tuple(codes_NL[item, :level].tolist()) == prefix] for prefix in prefixes]
        assert torch.equal(found_Bn, torch.stack([worth_BN[:, items].amax(1) for items in below], dim=1))
    assert len(best) == len(sizes)


def test_codes_that_are_no_item_are_worth_nothing() -> None:
    trie = Trie.from_codes(torch.tensor([[0, 1], [1, 0]]))
    with pytest.raises(ValueError, match="search the trie"):
        FreeTree((2, 2), trie).best(torch.zeros(1, 2))


def test_one_item_and_one_level() -> None:
    trie = Trie.from_codes(torch.tensor([[5]]))
    assert trie.num_levels == 1 and trie.branching == (1,)
    assert trie.find(torch.tensor([[5], [0], [-1], [6]])).tolist() == [0, -1, -1, -1]


def test_twenty_thousand_items_of_levels_of_different_size_are_found() -> None:
    draw = torch.Generator().manual_seed(0)
    codes_NL = codes_of((64, 128, 128), torch.randperm(64 * 128 * 128, generator=draw)[:20_000].tolist())
    trie = Trie.from_codes(codes_NL)
    assert torch.equal(trie.find(codes_NL), torch.arange(20_000))
    absent = codes_NL.clone()
    absent[:, 2] += 128
    assert (trie.find(absent) == -1).all()


@settings(max_examples=50, deadline=None)
@given(catalogues())
def test_memory_is_eight_bytes_a_node(catalogue: tuple[tuple[int, ...], Tensor]) -> None:
    _, codes_NL = catalogue
    trie = Trie.from_codes(codes_NL)
    num_nodes = sum(len({tuple(codes[: level + 1]) for codes in codes_NL.tolist()}) for level in range(trie.num_levels))
    assert sum(len(codes) for codes in trie.codes) == num_nodes
    tensors = [*trie.codes, *trie.first_child, trie.leaf_item]
    # A code and the first child (a leaf: the item), 4 bytes each, and one end of the children a level.
    assert sum(t.nbytes for t in tensors) == 8 * num_nodes + 4 * (trie.num_levels - 1)


def test_to_moves_every_tensor_and_changes_nothing() -> None:
    codes_NL = codes_of((3, 4, 2), [3, 17, 9, 4, 22])
    trie = Trie.from_codes(codes_NL)
    moved = trie.to("meta")
    assert all(t.is_meta for t in (*moved.codes, *moved.first_child, moved.leaf_item))
    assert walk(trie.to("cpu")) == walk(trie)
    assert all(t.is_meta for t in FreeTree((3, 4, 2), trie).to("meta").trie.codes)


@pytest.mark.parametrize("level", [0, 1])
def test_a_free_tree_offers_every_code_to_every_prefix(level: int) -> None:
    sizes = (3, 2)
    free = FreeTree(sizes, Trie.from_codes(torch.tensor([[2, 1]])))
    children = free.children(level, torch.zeros(2, 4, dtype=torch.long))
    assert children.valid_BKC.shape == (2, 4, sizes[level]) and children.valid_BKC.all()
    assert (children.codes_BKC == torch.arange(sizes[level])).all()
    assert free.num_levels == 2


def test_a_free_tree_knows_which_sequences_are_items() -> None:
    free = FreeTree((3, 2), Trie.from_codes(torch.tensor([[2, 1], [0, 1]])))
    codes_BKL = torch.tensor([[[0, 1], [0, 0], [2, 1]]])
    assert free.items(torch.zeros(1, 3, dtype=torch.long), codes_BKL).tolist() == [[1, -1, 0]]


@settings(max_examples=30, deadline=None)
@given(catalogues())
def test_a_prefix_of_a_free_tree_is_lone_that_one_sequence_starts_with(
    catalogue: tuple[tuple[int, ...], Tensor],
) -> None:
    sizes, codes_NL = catalogue
    free = FreeTree(sizes, Trie.from_codes(codes_NL))
    every = torch.cartesian_prod(*(torch.arange(size) for size in sizes)).view(-1, len(sizes)).tolist()
    for level in range(len(sizes)):
        zeros = sum(not any(codes[: level + 1]) for codes in every)  # all prefixes start equally many
        assert free.lone(level, torch.zeros(2, 3, dtype=torch.long)).tolist() == [[zeros == 1] * 3] * 2


def test_a_trie_of_nothing_or_of_an_item_given_twice_is_refused() -> None:
    codes_NL = torch.tensor([[0, 0], [0, 1], [1, 0]])
    with pytest.raises(ValueError, match="at least one item"):
        Trie.from_codes(codes_NL, torch.tensor([], dtype=torch.int64))
    with pytest.raises(ValueError, match="1 of 4 items have the codes of another one"):
        Trie.from_codes(codes_NL, torch.tensor([0, 0, 1, 2]))


def test_nothing_is_below_codes_that_no_level_has() -> None:
    trie = Trie.from_codes(torch.tensor([[0, 1], [0, 2], [3, 1]]))
    assert [trie.below(prefix).tolist() for prefix in ([2**32], [2**32 + 3], [-1], [3, 1])] == [[], [], [], [2]]
    with pytest.raises(ValueError, match="a prefix of 3 codes, where semantic IDs have 2"):
        trie.below([0, 1, 0])
