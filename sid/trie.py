"""Prefix trees over semantic IDs as CSR tensors, for constrained decoding and for looking items up.

Legend: B users, K beams, C children (padded), L levels, N items, X some of them, n nodes of a level.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import NamedTuple, Protocol

import torch
from torch import Tensor


class Children(NamedTuple):
    """The continuations of every beam at one level; where `valid_BKC` is False the other two hold padding."""

    codes_BKC: Tensor
    nodes_BKC: Tensor
    valid_BKC: Tensor


class PrefixTree(Protocol):
    """What a beam search needs to know about the sequences it may write."""

    @property
    def num_levels(self) -> int: ...

    def children(self, level: int, nodes_BK: Tensor) -> Children:
        """Continuations at `level` of the prefixes `nodes_BK` (at level 0: all zeros, the root)."""

    def lone(self, level: int, nodes_BK: Tensor) -> Tensor:
        """Whether the prefixes `nodes_BK`, which end at `level`, have one item only."""

    def items(self, nodes_BK: Tensor, codes_BKL: Tensor) -> Tensor:
        """Items of finished sequences (B, K); -1 where the codes belong to no item."""

    def best(self, worth_BN: Tensor) -> list[Tensor]:
        """For every level (B, n), the greatest worth of an item below each node. B users, N items."""

    def to(self, device: torch.device | str) -> "PrefixTree":
        """The same tree on another device."""


@dataclass(frozen=True)
class Trie:
    """The valid semantic IDs of a catalogue. Nodes of a level are numbered by their prefix, in lexicographic order.

    `codes[l]` (n_l,) int32 is the last code of every prefix of length l + 1; the children of node i of level l are the
    nodes `first_child[l][i] .. first_child[l][i + 1] - 1` of level l + 1. The leaves carry one item each.
    Memory: 8 bytes a node. The padded read of at most `branching[l]` children is the scheme of STATIC (arXiv
    2602.22647).
    """

    codes: tuple[Tensor, ...]
    first_child: tuple[Tensor, ...]
    leaf_item: Tensor
    branching: tuple[int, ...]

    @classmethod
    def from_codes(cls, codes_NL: Tensor, items_X: Tensor | None = None) -> "Trie":
        """The trie of N distinct code sequences (N, L), or of the items `items_X` (X,) alone. Cost: one lexicographic
        sort. Raises ValueError for no sequence at all, and for one that is there twice."""
        if items_X is not None:
            some = cls.from_codes(codes_NL[items_X])
            return replace(some, leaf_item=items_X[some.leaf_item].int())
        num_items, num_levels = codes_NL.shape
        if not num_items:
            raise ValueError("a trie needs at least one item")
        order_N = torch.arange(num_items, device=codes_NL.device)
        for level in reversed(range(num_levels)):
            order_N = order_N[torch.argsort(codes_NL[order_N, level], stable=True)]
        sorted_NL = codes_NL[order_N]
        starts_N = torch.zeros(num_items, dtype=torch.bool, device=codes_NL.device)
        starts_N[0] = True
        rows, codes, first_child = [], [], []
        for level in range(num_levels):
            starts_N[1:] |= sorted_NL[1:, level] != sorted_NL[:-1, level]
            rows.append(starts_N.nonzero().squeeze(1))
            codes.append(sorted_NL[rows[-1], level].int())
        if len(rows[-1]) < num_items:
            raise ValueError(f"{num_items - len(rows[-1])} of {num_items} items have the codes of another one")
        for above, below in pairwise(rows):
            bounds = torch.cat([above, above.new_tensor([num_items])])
            first_child.append(torch.searchsorted(below, bounds).int())
        widest = [int(offsets.diff().max()) for offsets in first_child]
        return cls(tuple(codes), tuple(first_child), order_N.int(), (len(codes[0]), *widest))

    @property
    def num_levels(self) -> int:
        return len(self.codes)

    def to(self, device: torch.device | str) -> "Trie":
        """The same trie on another device."""
        return self.each(lambda tensor: tensor.to(device))

    def each(self, change: Callable[[Tensor], Tensor]) -> "Trie":
        """The same trie of changed tensors."""
        codes, first_child = (tuple(map(change, tensors)) for tensors in (self.codes, self.first_child))
        return Trie(codes, first_child, change(self.leaf_item), self.branching)

    def _range(self, level: int, nodes: Tensor) -> tuple[Tensor, Tensor]:
        if level == 0:
            return torch.zeros_like(nodes), torch.full_like(nodes, len(self.codes[0]))
        first_child = self.first_child[level - 1]
        return first_child[nodes].long(), first_child[nodes + 1].long()

    def children(self, level: int, nodes_BK: Tensor) -> Children:
        start_BK, end_BK = self._range(level, nodes_BK)
        offsets_C = torch.arange(self.branching[level], device=nodes_BK.device)
        nodes_BKC = start_BK[..., None] + offsets_C
        valid_BKC = nodes_BKC < end_BK[..., None]
        nodes_BKC = nodes_BKC.clamp_max_(len(self.codes[level]) - 1)
        return Children(self.codes[level][nodes_BKC].long(), nodes_BKC, valid_BKC)

    def lone(self, level: int, nodes_BK: Tensor) -> Tensor:
        low_BK, end_BK = self._leaves(level, nodes_BK)
        return end_BK - low_BK == 1

    def alone(self, num_items: int) -> Tensor:
        """(N,) for every item, the level from which on no other item of the trie begins as it does; L for items that
        are not in it."""
        level_N = self.leaf_item.new_full((num_items,), self.num_levels)
        for level in reversed(range(self.num_levels)):
            low_n, end_n = self._leaves(level, torch.arange(len(self.codes[level]), device=level_N.device))
            level_N[self.leaf_item[low_n[end_n - low_n == 1]]] = level
        return level_N

    def _leaves(self, level: int, nodes: Tensor) -> tuple[Tensor, Tensor]:
        """The first leaf below each node, and the one behind the last."""
        low, end = nodes, nodes + 1
        for first_child in self.first_child[level:]:
            low, end = first_child[low], first_child[end]
        return low, end

    def items(self, nodes_BK: Tensor, codes_BKL: Tensor) -> Tensor:
        return self.leaf_item[nodes_BK].long()

    def best(self, worth_BN: Tensor) -> list[Tensor]:
        """For every level (B, n), the greatest worth of an item below each node. B users, N items."""
        levels = [worth_BN[:, self.leaf_item]]
        for first_child in reversed(self.first_child):
            nodes = torch.arange(len(first_child) - 1, device=first_child.device)
            parents_Bn = nodes.repeat_interleave(first_child.diff()).expand_as(levels[0])
            least_Bn = levels[0].new_full((len(worth_BN), len(nodes)), -torch.inf)
            levels.insert(0, least_Bn.scatter_reduce(1, parents_Bn, levels[0], "amax"))
        return levels

    def below(self, prefix: Sequence[int]) -> Tensor:
        """(X,) the items whose codes begin with the prefix, in lexicographic order. Raises ValueError for a prefix of
        more than L codes."""
        if len(prefix) > self.num_levels:
            raise ValueError(f"a prefix of {len(prefix)} codes, where semantic IDs have {self.num_levels}")
        low, end = 0, len(self.codes[0])
        for level, code in enumerate(prefix):
            if level:
                low, end = (int(self.first_child[level - 1][node]) for node in (low, end))
            low, end = (low + int(bound) for bound in _place(self.codes[level][low:end], code))
        for first_child in self.first_child[max(len(prefix) - 1, 0) :]:
            low, end = int(first_child[low]), int(first_child[end])
        return self.leaf_item[low:end].long()

    def find(self, codes: Tensor) -> Tensor:
        """Items with the given codes (..., L), -1 where there is none: one binary search a level."""
        node = torch.zeros(codes.shape[:-1], dtype=torch.long, device=codes.device)
        found = torch.ones_like(node, dtype=torch.bool)
        for level in range(self.num_levels):
            low, end = self._range(level, node)
            high, last = end, len(self.codes[level]) - 1
            for _ in range(self.branching[level].bit_length()):
                middle = (low + high) // 2
                right = (low < high) & (self.codes[level][middle.clamp_max(last)] < codes[..., level])
                low, high = torch.where(right, middle + 1, low), torch.where(right, high, torch.minimum(middle, high))
            node = low.clamp_max(last)
            found &= (low < end) & (self.codes[level][node] == codes[..., level])
        return torch.where(found, self.leaf_item[node].long(), -1)


def _place(sorted_X: Tensor, code: int) -> tuple[Tensor, Tensor]:
    """Where a code begins and ends."""
    wide_X = sorted_X.long()  # a search casts the code to the type of the codes
    return torch.searchsorted(wide_X, code), torch.searchsorted(wide_X, code, right=True)


@dataclass(frozen=True)
class FreeTree:
    """Every sequence of codes, valid or not: an unconstrained beam search, for the invalid-ID rate."""

    codebook_sizes: tuple[int, ...]
    trie: Trie

    @property
    def num_levels(self) -> int:
        return len(self.codebook_sizes)

    def children(self, level: int, nodes_BK: Tensor) -> Children:
        codes_C = torch.arange(self.codebook_sizes[level], device=nodes_BK.device)
        codes_BKC = codes_C.expand(*nodes_BK.shape, -1)
        return Children(codes_BKC, torch.zeros_like(codes_BKC), torch.ones_like(codes_BKC, dtype=torch.bool))

    def lone(self, level: int, nodes_BK: Tensor) -> Tensor:
        return torch.full_like(nodes_BK, all(size == 1 for size in self.codebook_sizes[level + 1 :]), dtype=torch.bool)

    def items(self, nodes_BK: Tensor, codes_BKL: Tensor) -> Tensor:
        return self.trie.find(codes_BKL)

    def best(self, worth_BN: Tensor) -> list[Tensor]:
        raise ValueError("codes that are no item are worth nothing; search the trie")

    def to(self, device: torch.device | str) -> "FreeTree":
        """The same tree on another device."""
        return FreeTree(self.codebook_sizes, self.trie.to(device))
