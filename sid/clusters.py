"""Tokenizers of nearest centres: residual k-means, plain and balanced, and a tree of k-means.

Legend: N items, B vectors, D width, L levels, K codes of a level, P nodes of a tree's level.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from sid.kmeans import kmeans, nearest


class Residual:
    """Codes of nearest centres, each level on what the levels before leave over (RQ-k-means; OneRec, section 3.1).

    `prices` shift the distances of a level's centres; see `balancing_prices`.
    """

    def __init__(self, levels: Sequence[tuple[Tensor, Tensor]]) -> None:
        self.levels = list(levels)

    def codes(self, vectors_BD: Tensor) -> Tensor:
        residual_BD, codes = vectors_BD, []
        for centres_KD, prices_K in self.levels:
            codes.append(nearest(residual_BD, centres_KD, prices_K))
            residual_BD = residual_BD - centres_KD[codes[-1]]
        return torch.stack(codes, dim=1)


def residual(vectors_ND: Tensor, codebook_sizes: Sequence[int], seed: int, balanced: bool) -> Residual:
    """Fits one level after the other; balanced: every code gets about as many items."""
    left_ND, levels = vectors_ND, []
    for level, size in enumerate(codebook_sizes):
        centres_KD = kmeans(left_ND, size, seed + level)
        prices_K = centres_KD.new_zeros(size)
        if balanced:
            centres_KD, prices_K = balance(left_ND, centres_KD)
        levels.append((centres_KD, prices_K))
        left_ND = left_ND - centres_KD[nearest(left_ND, centres_KD, prices_K)]
    return Residual(levels)


def balance(vectors_ND: Tensor, centres_KD: Tensor, rounds: int = 10) -> tuple[Tensor, Tensor]:
    """Centres (K, D) and prices (K,) of k-means whose clusters are of about equal size, from those of plain k-means."""
    for _ in range(rounds):
        prices_K = balancing_prices(torch.cdist(vectors_ND, centres_KD).square())
        codes_N = nearest(vectors_ND, centres_KD, prices_K)
        count_K = torch.bincount(codes_N, minlength=len(centres_KD))
        sum_KD = torch.zeros_like(centres_KD).index_add_(0, codes_N, vectors_ND)
        centres_KD = torch.where(count_K[:, None] > 0, sum_KD / count_K.clamp_min(1)[:, None], centres_KD)
    return centres_KD, balancing_prices(torch.cdist(vectors_ND, centres_KD).square())


def balancing_prices(distance_NK: Tensor, rounds: int = 100) -> Tensor:
    """(K,) what to add to every centre's squared distance so that nearest centres are of about equal size.

    The dual of the transport of N vectors to K equal bins with a little entropy (Cuturi 2013, Sinkhorn iterations):
    unlike a list of who goes where, prices hold for vectors that were not there.
    """
    num_rows, num_codes = distance_NK.shape
    entropy = 0.02 * float(distance_NK.mean()) + 1e-12
    score_NK, price_K = distance_NK.neg() / entropy, distance_NK.new_zeros(num_codes)
    wanted = torch.tensor(num_rows / num_codes).log()
    for _ in range(rounds):
        load_K = torch.log_softmax(score_NK - price_K, dim=1).logsumexp(0)
        price_K = price_K + load_K - wanted
    return entropy * (price_K - price_K.mean())


class Tree:
    """A code is the nearest child of the node that the codes before lead to: hierarchical k-means."""

    def __init__(self, codebook_sizes: Sequence[int]) -> None:
        self.codebook_sizes = tuple(codebook_sizes)
        self.children: list[dict[int, Tensor]] = [{} for _ in codebook_sizes]
        """Of every level: node (the codes before as one number) -> its children's centres (at most K, D)."""

    def codes(self, vectors_BD: Tensor) -> Tensor:
        node_B = torch.zeros(len(vectors_BD), dtype=torch.int64)
        codes = []
        for size, children in zip(self.codebook_sizes, self.children, strict=True):
            code_B = torch.empty_like(node_B)
            for node, rows in groups(node_B):
                code_B[rows] = nearest(vectors_BD[rows], children[node])
            codes.append(code_B)
            node_B = node_B * size + code_B
        return torch.stack(codes, dim=1)


def tree(vectors_ND: Tensor, codebook_sizes: Sequence[int], seed: int) -> Tree:
    """k-means of all items, then of the items of every cluster, and so on.

    A node with no more different vectors than codes gives each of them a child of its own.
    """
    made = Tree(codebook_sizes)
    node_N = torch.zeros(len(vectors_ND), dtype=torch.int64)
    for level, size in enumerate(codebook_sizes):
        code_N = torch.empty_like(node_N)
        for node, rows in groups(node_N):
            here = vectors_ND[rows]
            different = here.unique(dim=0) if len(here) <= 4 * size or level else here
            centres = different if len(different) <= size else kmeans(here, size, seed + level)
            made.children[level][node] = centres
            code_N[rows] = nearest(here, centres)
        node_N = node_N * size + code_N
    return made


def groups(node_N: Tensor) -> list[tuple[int, Tensor]]:
    """(node, rows that are there), by node."""
    order_N = node_N.argsort(stable=True)
    nodes, counts = node_N[order_N].unique_consecutive(return_counts=True)
    return list(zip(nodes.tolist(), order_N.split(counts.tolist()), strict=True))
