"""Tokenizers of nearest centres: residual k-means, plain and balanced, and a tree of k-means.

Legend: N items, B vectors, D width, L levels, K codes of a level, P nodes of a tree's level.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from sid.kmeans import kmeans, last_distances, nearest, residual_kmeans

ENTROPY = 0.01
"""Of a balanced assignment, in mean squared distances: the less, the more even are the clusters, and the slower."""
IDLE = 4
"""Times that it is halved without relief for the fullest cluster."""


class Residual:
    """Codes of nearest centres, each level on what the levels before leave over (RQ-k-means).

    `prices` shift the distances of a level's centres; see `balancing_prices` (OneRec, section 3.1, balances too).
    """

    def __init__(self, levels: Sequence[tuple[Tensor, Tensor]]) -> None:
        self.levels = list(levels)

    def to(self, device: torch.device | str) -> "Residual":
        return Residual([(centres_KD.to(device), prices_K.to(device)) for centres_KD, prices_K in self.levels])

    def codes(self, vectors_BD: Tensor) -> Tensor:
        residual_BD, codes = vectors_BD, []
        for centres_KD, prices_K in self.levels:
            codes.append(nearest(residual_BD, centres_KD, prices_K))
            residual_BD = residual_BD - centres_KD[codes[-1]]
        return torch.stack(codes, dim=1)

    def last_distances(self, vectors_BD: Tensor, codes_BL: Tensor) -> Tensor:
        """(B, K) squared distances, prices added, of the last level's centres to what the codes before leave over."""
        centres, prices = zip(*self.levels, strict=True)
        return last_distances(vectors_BD, codes_BL, centres) + prices[-1]


def residual(vectors_ND: Tensor, codebook_sizes: Sequence[int], seed: int, balanced: bool) -> Residual:
    """Fits one level after the other; balanced: every code gets about as many items."""
    if not balanced:
        _, centres = residual_kmeans(vectors_ND, codebook_sizes, seed)
        return Residual([(centres_KD, centres_KD.new_zeros(len(centres_KD))) for centres_KD in centres])
    left_ND, levels = vectors_ND, []
    for level, size in enumerate(codebook_sizes):
        centres_KD, prices_K = balance(left_ND, kmeans(left_ND, size, seed + level))
        levels.append((centres_KD, prices_K))
        left_ND = left_ND - centres_KD[nearest(left_ND, centres_KD, prices_K)]
    return Residual(levels)


def balance(vectors_ND: Tensor, centres_KD: Tensor, rounds: int = 10) -> tuple[Tensor, Tensor]:
    """Centres (K, D) and prices (K,) of k-means whose clusters are of about equal size, from those of plain k-means."""
    prices_K = None
    for _ in range(rounds):
        distance_NK = torch.cdist(vectors_ND, centres_KD).square()
        prices_K = balancing_prices(distance_NK, prices_K)
        codes_N = (distance_NK + prices_K).argmin(1)
        count_K = torch.bincount(codes_N, minlength=len(centres_KD))
        sum_KD = torch.zeros_like(centres_KD).index_add_(0, codes_N, vectors_ND)
        centres_KD = torch.where(count_K[:, None] > 0, sum_KD / count_K.clamp_min(1)[:, None], centres_KD)
    return centres_KD, balancing_prices(torch.cdist(vectors_ND, centres_KD).square(), prices_K)


def balancing_prices(distance_NK: Tensor, old_K: Tensor | None = None) -> Tensor:
    """(K,) what to add to every centre's squared distance so that nearest centres are of about equal size.

    The dual of the transport of N vectors to K equal bins with a little entropy (Cuturi 2013): unlike a list of who
    goes where, prices hold for vectors that were not there. From `old_K`, prices that are about right; without them, or
    where they are not, the entropy comes down from the scale of the distances, so that no bin is ever out of
    everybody's reach. It comes down further where a few far vectors make that scale larger than what tells the others
    apart, until that no longer helps, as with many equal vectors.
    """
    scale, enough = float(distance_NK.mean()) + 1e-12, 1.5 * len(distance_NK) / distance_NK.shape[1] + 1
    tried = [] if old_K is None else [transported(distance_NK, old_K, ENTROPY * scale)]
    if not tried or fullest(distance_NK, tried[0]) > enough:
        price_K = distance_NK.new_zeros(distance_NK.shape[1])
        for step in range(6, -1, -1):
            price_K = transported(distance_NK, price_K, 2**step * ENTROPY * scale)
        tried.append(price_K)
    loads = [fullest(distance_NK, price_K) for price_K in tried]
    for step in range(1, 13):
        if min(loads) <= enough or (step > IDLE and min(loads[-IDLE:]) >= min(loads[:-IDLE])):
            break
        tried.append(transported(distance_NK, tried[-1], ENTROPY * scale / 2**step))
        loads.append(fullest(distance_NK, tried[-1]))
    price_K = tried[loads.index(min(loads))]
    return price_K - price_K.mean()


def transported(distance_NK: Tensor, price_K: Tensor, entropy: float) -> Tensor:
    """Prices (K,) that make the bins even at this entropy, in squared distances; from prices that are about right."""
    for _ in range(10):
        step_K, error = sinkhorn(torch.softmax((distance_NK + price_K) / -entropy, dim=1))
        price_K = price_K - entropy * step_K
        if error < 0.05:
            break
    return price_K


def fullest(distance_NK: Tensor, price_K: Tensor) -> int:
    """How many vectors have the bin that has most."""
    return int(torch.bincount((distance_NK + price_K).argmin(1), minlength=len(price_K)).max())


def sinkhorn(share_NK: Tensor, rounds: int = 10) -> tuple[Tensor, float]:
    """(K,) logarithms of the factors of columns that rows of sum 1 then load more evenly; how uneven they still are.

    A round changes a factor tenfold at most, so that one of a column without a load stays finite.
    """
    factor_K, wanted = share_NK.new_ones(share_NK.shape[1]), len(share_NK) / share_NK.shape[1]
    for _ in range(rounds):
        load_K = factor_K * ((share_NK @ factor_K).reciprocal() @ share_NK)
        factor_K = factor_K * (wanted / load_K).clamp(0.1, 10)
    return factor_K.log(), float((load_K / wanted - 1).abs().max())


class Tree:
    """A code is the nearest child of the node that the codes before lead to: hierarchical k-means."""

    def __init__(self, children: Sequence[Sequence[Tensor]]) -> None:
        self.children = children
        """Of every level and node: its children's centres (at most K, D). They are, in this order, the nodes of the
        next level; the first level has one node."""
        self.first_child = [first_children(centres) for centres in children]

    def codes(self, vectors_BD: Tensor) -> Tensor:
        node_B = torch.zeros(len(vectors_BD), dtype=torch.int64)
        codes = []
        for children, first_P in zip(self.children, self.first_child, strict=True):
            code_B = torch.empty_like(node_B)
            for node, rows in rows_by_node(node_B):
                code_B[rows] = nearest(vectors_BD[rows], children[node])
            codes.append(code_B)
            node_B = first_P[node_B] + code_B
        return torch.stack(codes, dim=1)


def tree(vectors_ND: Tensor, codebook_sizes: Sequence[int], seed: int) -> Tree:
    """k-means of all items, then of the items of every cluster, and so on.

    A node with no more different vectors than codes gives each of them a child of its own, the root only where it has
    few items, as there a search for equal vectors is long. A child without items is
    left out: other vectors would be led to a node that has no children.
    """
    levels: list[list[Tensor]] = []
    node_N = torch.zeros(len(vectors_ND), dtype=torch.int64)
    for level, size in enumerate(codebook_sizes):
        code_N, children = torch.empty_like(node_N), []
        for _, rows in rows_by_node(node_N):
            here = vectors_ND[rows]
            different = here.unique(dim=0) if len(here) <= 4 * size or level else here
            centres = different if len(different) <= size else kmeans(here, size, seed + level)
            used, code_N[rows] = nearest(here, centres).unique(return_inverse=True)
            children.append(centres[used])
        levels.append(children)
        node_N = first_children(children)[node_N] + code_N
    return Tree(levels)


def first_children(children: Sequence[Tensor]) -> Tensor:
    """(P,) number, among the nodes of the next level, of the first child of every node."""
    count_P = torch.tensor([len(centres) for centres in children])
    return count_P.cumsum(0) - count_P


def rows_by_node(node_N: Tensor) -> list[tuple[int, Tensor]]:
    """(node, rows that are there), by node."""
    order_N = node_N.argsort(stable=True)
    nodes, counts = node_N[order_N].unique_consecutive(return_counts=True)
    return list(zip(nodes.tolist(), order_N.split(counts.tolist()), strict=True))
