"""What GLASS (arXiv 2602.05663) makes of a history of thousands of items, in plain functions of tensors.

Nothing is kept per user: similarities depend on (item, first code) alone, so they are one table of tiers, and a long
history is sorted by first code once a batch, after which any code's items are a slice.
Legend: B users, T items of the long history, N items, D vector width, A codes of the first level, K codes asked for a
user, R items found for each, Z eights of codes.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

CHUNK_ITEMS = 1 << 16
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
    """(N - 1,) inner edges of the tiers of [-1, 1]: the published -.1, 0, .1 for four, else evenly spaced."""
    if num_tiers == len(PUBLISHED_EDGES) + 1:
        return torch.tensor(PUBLISHED_EDGES)
    return torch.linspace(-1, 1, num_tiers + 1)[1:-1]


def tier_table(vectors_ND: np.ndarray, prototypes_AD: Tensor, mean_D: Tensor, edges: Tensor) -> Tensor:
    """(N, A) uint8: the tier of the cosine between every item and every first code's prototype."""
    tier_NA = torch.empty(len(vectors_ND), len(prototypes_AD), dtype=torch.uint8)
    for start, rows_XD in _pieces(vectors_ND):
        cosine_XA = F.normalize(rows_XD - mean_D, dim=1) @ prototypes_AD.T
        tier_NA[start : start + len(rows_XD)] = torch.bucketize(cosine_XA, edges, right=True)
    return tier_NA


def _pieces(vectors_ND: np.ndarray) -> Iterator[tuple[int, Tensor]]:
    for start in range(0, len(vectors_ND), CHUNK_ITEMS):
        yield start, torch.from_numpy(np.array(vectors_ND[start : start + CHUNK_ITEMS], dtype=np.float32))


def nearest_codes(prototypes_AD: Tensor, count: int) -> Tensor:
    """(A, count) the first codes whose prototypes are most alike, itself left out; codes without items come last."""
    cosine_AA = prototypes_AD @ prototypes_AD.T
    cosine_AA[:, ~prototypes_AD.any(1)] = -2.0
    return cosine_AA.fill_diagonal_(-torch.inf).topk(count).indices


def tier_shares(long_BT: Tensor, tier_NA: Tensor, num_tiers: int) -> Tensor:
    """(B, A, tiers): how the long history's items are spread over the tiers of every first code.

    Sums to one for a code, whatever the order of the items; zeros where there are no items.

    Args:
        long_BT: items; -1 for padding.
    """
    num_codes = tier_NA.shape[1]
    # Eight codes at a time: a byte counts up to 255 without touching its neighbours.
    lanes_NA = tier_NA if num_codes % 8 == 0 else F.pad(tier_NA, (0, -num_codes % 8))
    eight_NZ = lanes_NA.flatten().view(torch.int64).unflatten(0, (len(lanes_NA), -1))
    nowhere = int.from_bytes(bytes([num_tiers] * 8), "little", signed=True)
    count_BXA = torch.zeros(len(long_BT), num_tiers, 8 * eight_NZ.shape[1], dtype=torch.int32, device=long_BT.device)
    for item_BT in long_BT.split(255, dim=1):
        eight_BTZ = eight_NZ.index_select(0, item_BT.clamp_min(0).flatten()).unflatten(0, item_BT.shape)
        tier_BTA = eight_BTZ.masked_fill_((item_BT < 0)[..., None], nowhere).view(torch.uint8)
        for tier in range(num_tiers - 1):
            count_BXA[:, tier] += (tier_BTA == tier).view(torch.int64).sum(1).view(torch.uint8)
    length_B1 = (long_BT >= 0).sum(1, keepdim=True)
    count_BXA[:, -1] = length_B1 - count_BXA.sum(1)
    return (count_BXA[..., :num_codes] / length_B1.clamp_min(1)[..., None]).transpose(1, 2)


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
