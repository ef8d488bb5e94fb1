"""How good a table of semantic IDs is: what its codes keep of the item vectors, and what they know of the categories.

Codes are those before the collision digit. A measure that finer codes improve by themselves stands beside its chance.

Legend: N items, L levels, D vector width, V codes of all levels, Q queries, K neighbours of a query.
"""

import itertools
import math
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from sid.collisions import groups
from sid.kmeans import faiss_or_error
from sid.tokenizers import CHUNK, drawn

SEED = 1
"""Of what is drawn here: the same for every table, so that tables are measured on the same items."""
NEIGHBOURS = 10
QUERIES = 4_096
PAIRS = 2**34
"""Largest number of comparisons of a query with an item."""
SAMPLE = 131_072
"""Items that reconstruction is measured on."""
DENSE = 4_096
"""Codes of all levels up to which their normal equations are solved exactly."""


class Measured(NamedTuple):
    """A measure for every prefix length, from 1 to L; None where it is not measured."""

    values: list[float | None]
    chance: list[float]
    """What random codes would reach."""


class Agreement(NamedTuple):
    """How well two groupings of the same items agree, each in [0, 1] but for `adjusted`, which may fall below 0."""

    nmi: float
    """Mutual information over the mean of the two entropies; small groups raise it by themselves."""
    adjusted: float
    """The same, 0 for one of the groupings shuffled over the items; 1: one and the same."""
    purity: float
    """Share of the items that have the commonest label of their group."""
    purity_chance: float
    """The same with the labels shuffled."""


def prefixes(codes_NL: Tensor) -> Tensor:
    """(N, L) int64: which items share the first 1, 2, ..., L codes; every column is numbered from 0."""
    prefix_NL = torch.empty_like(codes_NL)
    prefix_N = torch.zeros_like(codes_NL[:, 0])
    for level, code_N in enumerate(codes_NL.unbind(1)):
        prefix_N = groups(torch.stack([prefix_N, code_N], dim=1))
        prefix_NL[:, level] = prefix_N
    return prefix_NL


def items_per_prefix(prefix_N: Tensor) -> list[list[int]]:
    """Histogram of a column of `prefixes`: [n, how many prefixes hold n items]."""
    held, count = prefix_N.bincount().unique(return_counts=True)
    return torch.stack([held, count], dim=1).tolist()


def neighbourhood(prefix_NL: Tensor, vectors_ND: np.ndarray) -> Measured:
    """Share of the 10 nearest items by cosine that share an item's prefix; chance: of any other item.

    Asked of up to 4,096 items, drawn once for all tables of a catalogue; of fewer beyond 4 million items. A standard
    error is at most 0.5 / sqrt(queries). An item that is alone has no neighbours: nothing is measured.

    Args:
        vectors_ND: may be a mapped file.
    """
    num_items, num_levels = prefix_NL.shape
    query_Q = drawn(vectors_ND, max(1, min(QUERIES, PAIRS // num_items)), SEED)
    near_QK = nearest_items(vectors_ND, query_Q, min(NEIGHBOURS, num_items - 1))
    share_L = (prefix_NL[near_QK] == prefix_NL[torch.from_numpy(query_Q), None]).double().mean((0, 1))
    values = share_L.tolist() if num_items > 1 else [None] * num_levels
    sizes = [prefix_NL[:, level].bincount().double() for level in range(num_levels)]
    pairs = max(1, num_items * (num_items - 1))
    return Measured(values, [float((size * (size - 1)).sum()) / pairs for size in sizes])


def nearest_items(vectors_ND: np.ndarray, query_Q: np.ndarray, count: int) -> Tensor:
    """(Q, K) int64 the `count` items nearest to each query item by cosine, itself left out; exact."""
    faiss = faiss_or_error()
    asked_QD = _unit(vectors_ND[query_Q])
    score_QK, near_QK = torch.empty(len(query_Q), 0), torch.empty(len(query_Q), 0, dtype=torch.long)
    for start in range(0, len(vectors_ND), CHUNK):
        block_BD = _unit(vectors_ND[start : start + CHUNK])
        found = faiss.knn(asked_QD, block_BD, min(count + 1, len(block_BD)), metric=faiss.METRIC_INNER_PRODUCT)
        score, near = torch.from_numpy(found[0]), torch.from_numpy(found[1]) + start
        score[near == torch.from_numpy(query_Q)[:, None]] = -math.inf
        score_QK, near_QK = torch.cat([score_QK, score], dim=1), torch.cat([near_QK, near], dim=1)
        score_QK, best_QK = score_QK.topk(min(count, score_QK.shape[1]), dim=1)
        near_QK = near_QK.gather(1, best_QK)
    return near_QK


def _unit(vectors_BD: np.ndarray) -> np.ndarray:
    vectors_BD = np.array(vectors_BD, dtype=np.float32)
    return vectors_BD / np.maximum(np.linalg.norm(vectors_BD, axis=1, keepdims=True), 1e-12)


def reconstruction(codes_NL: Tensor, codebook_sizes: tuple[int, ...], vectors_ND: np.ndarray) -> Measured:
    """Share of the vectors' variance that is left by the best sum of one free vector for every code of every level.

    This decoder is defined alike for every tokenizer: whatever their own decoder, codes that keep more leave less.
    Measured on up to 131,072 items, as is chance: as many codes without a meaning. Of prefixes with more than 4,096
    codes only the longest is measured, a little too large, and not where these are more than half as many as items.
    """
    rows = drawn(vectors_ND, SAMPLE, SEED)
    codes_NL = codes_NL[torch.from_numpy(rows)]
    centred_ND = torch.from_numpy(np.array(vectors_ND[rows], dtype=np.float32))
    centred_ND -= centred_ND.mean(0)
    used = [len(code_N.unique()) for code_N in codes_NL.unbind(1)]
    free = np.cumsum([count - 1 for count in used])
    chance = [max(0.0, 1 - count / max(1, len(rows) - 1)) for count in free.tolist()]

    ends = list(itertools.accumulate(codebook_sizes))
    exact = sum(end <= DENSE for end in ends)
    values: list[float | None] = [None] * len(ends)
    values[:exact] = least_squares(codes_NL[:, :exact], codebook_sizes[:exact], centred_ND) if exact else []
    if exact < len(ends) and ends[-1] <= len(rows) // 2:
        values[-1] = backfitted(codes_NL, codebook_sizes, centred_ND)
    return Measured(values, chance)


def least_squares(codes_NL: Tensor, codebook_sizes: tuple[int, ...], centred_ND: Tensor) -> list[float]:
    """Share of the variance that is left at each of L prefix lengths, exact.

    One factor of the normal equations serves them all: G = A'A = R R' for the one-hot design A (N, V), and the first v
    codes explain the squares of the first v rows of R^-1 A'X.
    """
    import scipy.linalg
    from scipy.sparse import csr_matrix

    (num_items, num_levels), ends = codes_NL.shape, np.cumsum(codebook_sizes)
    column_NL = codes_NL.numpy() + (ends - codebook_sizes)
    starts = np.arange(0, num_items * num_levels + 1, num_levels)
    design_NV = csr_matrix((np.ones(num_items * num_levels), column_NL.ravel(), starts), shape=(num_items, ends[-1]))
    gram_VV = (design_NV.T @ design_NV).toarray()
    gram_VV[np.diag_indices(len(gram_VV))] += 1e-6  # unused codes, and the constant that every level can express
    vectors_ND = centred_ND.double().numpy()
    factor_VV = scipy.linalg.cholesky(gram_VV, lower=True, overwrite_a=True, check_finite=False)
    rows_VD = scipy.linalg.solve_triangular(factor_VV, design_NV.T @ vectors_ND, lower=True, check_finite=False)
    explained_V = np.square(rows_VD).sum(1).cumsum()
    total = max(float(np.square(vectors_ND).sum()), 1e-30)
    return [max(0.0, 1 - float(explained_V[end - 1]) / total) for end in ends]


def backfitted(codes_NL: Tensor, codebook_sizes: tuple[int, ...], centred_ND: Tensor, sweeps: int = 30) -> float:
    """Share of the variance that is left at full length, from above: every level in turn takes what the others leave.

    Ends when a sweep lowers it by less than 0.0001. Needs one copy of the vectors, whatever the number of codes.
    """
    total = max(float(centred_ND.square().sum()), 1e-30)
    left_ND, left = centred_ND, math.inf
    for _ in range(sweeps):
        before = left
        for code_N, size in zip(codes_NL.unbind(1), codebook_sizes, strict=True):
            count_V = code_N.bincount(minlength=size).clamp_min(1)
            sum_VD = left_ND.new_zeros(size, left_ND.shape[1]).index_add_(0, code_N, left_ND)
            left_ND = left_ND - (sum_VD / count_V[:, None])[code_N]
        left = float(left_ND.square().sum()) / total
        if before - left < 1e-4:
            break
    return left


def agreement(group_N: Tensor, label_N: Tensor) -> Agreement:
    """How well groups of items (from 0) and labels of the same items (from 0) agree.

    The chance is that of one shuffle of the labels: for thousands of items and labels of many items each it is within
    about 0.001 of the expectation over all shuffles, on which the adjusted mutual information rests (Vinh et al. 2010),
    and as fast for any number of groups.
    """
    shuffled_N = label_N[torch.randperm(len(label_N), generator=torch.Generator().manual_seed(SEED))]
    (nmi, purity), (by_chance, purity_chance) = (_compared(group_N, labels) for labels in (label_N, shuffled_N))
    adjusted = (nmi - by_chance) / (1 - by_chance) if by_chance < 1 - 1e-9 else float(nmi > 1 - 1e-9)
    return Agreement(nmi, adjusted, purity, purity_chance)


def rand_index(group_N: Tensor, other_N: Tensor) -> float:
    """Whether two groupings (from 0) put the same pairs of items together: 0 is chance, 1 one and the same.

    The adjusted Rand index (Hubert and Arabie 1985): exact, however small the groups.
    """
    _, both = (group_N * (int(other_N.max()) + 1) + other_N).unique(return_counts=True)
    together, ours, theirs = (_pairs(sizes) for sizes in (both, group_N.bincount(), other_N.bincount()))
    chance = ours * theirs / max(1.0, _pairs(torch.tensor([len(group_N)])))
    most = (ours + theirs) / 2
    return (together - chance) / (most - chance) if most > chance else 1.0


def _pairs(sizes: Tensor) -> float:
    """Pairs of items within groups of these sizes."""
    return float((sizes.double() * (sizes.double() - 1)).sum()) / 2


def _compared(group_N: Tensor, label_N: Tensor) -> tuple[float, float]:
    """Normalised mutual information and purity."""
    labels = int(label_N.max()) + 1
    pair, count = (group_N * labels + label_N).unique(return_counts=True)
    commonest = torch.zeros(int(group_N.max()) + 1, dtype=torch.long)
    commonest.scatter_reduce_(0, pair // labels, count, "amax")
    of_groups, of_labels, of_pairs = (_entropy(sizes) for sizes in (group_N.bincount(), label_N.bincount(), count))
    nmi = 2 * (of_groups + of_labels - of_pairs) / (of_groups + of_labels) if of_groups + of_labels > 0 else 1.0
    return min(1.0, max(0.0, nmi)), int(commonest.sum()) / len(group_N)


def _entropy(counts: Tensor) -> float:
    """In nats, of a distribution given by counts."""
    return float(torch.special.entr(counts.double() / counts.sum()).sum())
