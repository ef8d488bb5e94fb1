"""What GLASS (arXiv 2602.05663) makes of a history of thousands of items, in plain functions of tensors.

Nothing is kept per user: similarities depend on (item, first code) alone, so one table has what every item
adds to the counts of its tiers, and a long history is sorted by first code once a batch, after which any code's items
are a slice.
Legend: B users, T items of the long history, N items, X some items, M items of all users, D vector width, A codes of
the first level, V tiers, P fours of tiers, Z eights of codes, G threes of items, K codes asked for a user, R items
found for each.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

CHUNK_ITEMS = 1 << 16
THREES = int.from_bytes(bytes([3] * 8))
PUBLISHED_EDGES = (-0.1, 0.0, 0.1)


def prototypes(first_N: Tensor, vectors_ND: np.ndarray, num_codes: int) -> tuple[Tensor, Tensor]:
    """The direction (A, D) of the items of every first code, and the mean (D,) of all vectors.

    Prototypes are means of centred vectors at unit length; zero for a code without items. Centred, because vectors of
    texts share a large part: without that, nearly all cosines lie above the highest edge. Vectors are read in pieces.
    """
    width = vectors_ND.shape[1]
    sum_AD = torch.zeros(num_codes, width, dtype=torch.double)
    for start, rows_XD in _pieces(vectors_ND):
        sum_AD.index_add_(0, first_N[start : start + len(rows_XD)], rows_XD.double())
    mean_D = sum_AD.sum(0) / len(vectors_ND)
    count_A1 = torch.bincount(first_N, minlength=num_codes)[:, None]
    return F.normalize(sum_AD - count_A1 * mean_D, dim=1).float(), mean_D.float()


def tier_edges(num_tiers: int) -> Tensor:
    """(V - 1,) inner edges of the tiers of [-1, 1]: the published -.1, 0, .1 for four, else evenly spaced."""
    if num_tiers == len(PUBLISHED_EDGES) + 1:
        return torch.tensor(PUBLISHED_EDGES)
    return torch.linspace(-1, 1, num_tiers + 1)[1:-1]


def tiers(vectors_XD: Tensor, prototypes_AD: Tensor, mean_D: Tensor, edges: Tensor) -> Tensor:
    """(X, A) int64: the tier of the cosine between items and every first code's prototype."""
    cosine_XA = F.normalize(vectors_XD - mean_D, dim=1) @ prototypes_AD.T
    return torch.bucketize(cosine_XA, edges, right=True)


def counters(tier_XA: Tensor, num_tiers: int) -> Tensor:
    """(P, X, Z) int64: what items with such tiers add to their counts.

    A byte for every first code, of which eight are a number, holds counters of four tiers, two bits each. The last tier
    has none: it is the rest. So up to five tiers take a byte a code, and every four more another one.
    """
    adds_PV = torch.zeros((num_tiers + 2) // 4, num_tiers, dtype=torch.uint8)
    for tier in range(num_tiers - 1):
        adds_PV[tier // 4, tier] = 1 << 2 * (tier % 4)
    tier_XA = F.pad(tier_XA, (0, -tier_XA.shape[1] % 8), value=num_tiers - 1)
    shape = len(adds_PV), len(tier_XA), tier_XA.shape[1] // 8
    return adds_PV[:, tier_XA].flatten().view(torch.int64).view(shape)


def tier_counters(vectors_ND: np.ndarray, prototypes_AD: Tensor, mean_D: Tensor, edges: Tensor) -> Tensor:
    """(P, N + 1, Z) int64, the `counters` of all items, and of none, which adds nothing, behind them. Vectors are read
    in pieces."""
    num_tiers = len(edges) + 1
    nothing_PXZ = counters(torch.full((1, len(prototypes_AD)), num_tiers - 1), num_tiers)
    found_PNZ = nothing_PXZ.repeat(1, len(vectors_ND) + 1, 1)
    for start, rows_XD in _pieces(vectors_ND):
        tier_XA = tiers(rows_XD, prototypes_AD, mean_D, edges)
        found_PNZ[:, start : start + len(rows_XD)] = counters(tier_XA, num_tiers)
    return found_PNZ


def _pieces(vectors_ND: np.ndarray) -> Iterator[tuple[int, Tensor]]:
    for start in range(0, len(vectors_ND), CHUNK_ITEMS):
        yield start, torch.from_numpy(np.array(vectors_ND[start : start + CHUNK_ITEMS], dtype=np.float32))


def nearest_codes(prototypes_AD: Tensor, count: int) -> Tensor:
    """(A, count) the first codes whose prototypes are most alike, itself left out; codes without items come last."""
    cosine_AA = prototypes_AD @ prototypes_AD.T
    cosine_AA[:, ~prototypes_AD.any(1)] = -2.0
    return cosine_AA.fill_diagonal_(-torch.inf).topk(count).indices


def tier_shares(long_BT: Tensor, counters_PNZ: Tensor, num_tiers: int, num_codes: int) -> Tensor:
    """(B, A, V): how the long history's items are spread over the tiers of every first code.

    Sums to one for a code, whatever the order of the items; zeros where there are no items.

    Args:
        long_BT: items; -1 for padding.
        counters_PNZ: `tier_counters`.
        num_tiers: V.
        num_codes: A.
    """
    num_users, (rows, eights) = len(long_BT), counters_PNZ.shape[1:]
    count_BVA = torch.zeros(num_users, num_tiers, 8 * eights, dtype=torch.int32, device=long_BT.device)
    # A counter of two bits counts three items, and a byte 85 times as many, without touching its neighbours.
    for item_BT in F.pad(long_BT, (0, -long_BT.shape[1] % 3), value=-1).split(255, dim=1):
        row_M = item_BT.remainder(rows).flatten()
        for plane, adds_NZ in enumerate(counters_PNZ):
            three_BGZ = adds_NZ.index_select(0, row_M).view(num_users, item_BT.shape[1] // 3, 3, eights).sum(2)
            for place, tier in enumerate(range(4 * plane, min(4 * plane + 4, num_tiers - 1))):
                count_BVA[:, tier] += (three_BGZ >> 2 * place & THREES).sum(1).view(torch.uint8)
    length_B1 = (long_BT >= 0).sum(1, keepdim=True)
    count_BVA[:, -1] = length_B1 - count_BVA.sum(1)
    return (count_BVA[..., :num_codes] / length_B1.clamp_min(1)[..., None]).transpose(1, 2)


class Buckets(NamedTuple):
    """Long histories by first code: the items of code a of user b are `item_BT[b, start_BA1[b, a] : start_BA1[b, a +
    1]]`, oldest first."""

    item_BT: Tensor
    start_BA1: Tensor


def buckets(long_BT: Tensor, first_N: Tensor, num_codes: int) -> Buckets:
    """Sort every long history (oldest first, -1 for padding) by first code."""
    code_BT = first_N[long_BT.clamp_min(0)].masked_fill(long_BT < 0, num_codes)
    order_BT = code_BT.to(torch.int16 if num_codes < 2**15 else torch.int32).argsort(dim=1, stable=True)
    count_BA = code_BT.new_zeros(len(code_BT), num_codes + 1).scatter_add_(1, code_BT, torch.ones_like(code_BT))
    return Buckets(long_BT.gather(1, order_BT), F.pad(count_BA[:, :num_codes].cumsum(1), (1, 0)))


def retrieve(sorted_by_code: Buckets, codes_BK: Tensor, most: int, near_AX: Tensor, few: int) -> Tensor:
    """(B, K, R) the `most` items that a first code brings back from a user's long history; -1 behind.

    The most recent items of the code itself come first. Where it has fewer than `few`, those of the codes `near_AX`
    follow, the nearest code first (semantic neighbour augmentation).
    """
    item_BT, start_BA1 = sorted_by_code
    if item_BT.shape[1] == 0:
        return codes_BK.new_full((*codes_BK.shape, most), -1)
    wanted_BKW = torch.cat([codes_BK[..., None], near_AX[codes_BK]], dim=2)
    flat_BX = wanted_BKW.flatten(1)
    first_BKW = start_BA1.gather(1, flat_BX).view_as(wanted_BKW)
    end_BKW = start_BA1.gather(1, flat_BX + 1).view_as(wanted_BKW)
    lacks_BK = (end_BKW - first_BKW)[..., 0] < few
    first_BKW[..., 1:] = torch.where(lacks_BK[..., None], first_BKW[..., 1:], end_BKW[..., 1:])
    place_BKWR = end_BKW[..., None] - 1 - torch.arange(most, device=codes_BK.device)
    missing_BKX = (place_BKWR < first_BKW[..., None]).flatten(2)
    place_BKX = place_BKWR.flatten(2).clamp_min(0)
    if wanted_BKW.shape[2] > 1:
        order_BKR = missing_BKX.byte().argsort(dim=2, stable=True)[..., :most]
        place_BKX, missing_BKX = place_BKX.gather(2, order_BKR), missing_BKX.gather(2, order_BKR)
    found_BX = item_BT.gather(1, place_BKX.flatten(1))
    return found_BX.view_as(place_BKX).masked_fill(missing_BKX, -1)
