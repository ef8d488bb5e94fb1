"""The items whose content is nearest to each item's.

Legend: N items, K neighbours, E width of content, R rows of a piece.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

PIECE = 1 << 24
"""Cosines that are held at once."""


class Near(NamedTuple):
    """Of every item those nearest to it, itself not among them."""

    items_NK: Tensor
    cosines_NK: Tensor
    """float32."""


def evened_out(vectors_NE: Tensor, new_N: Tensor | None = None) -> Tensor:
    """(N, E) float32, the vectors around the mean of those that are not new, with nearly the same variance in every
    direction: the many small differences of texts count as much then as the few large ones, which is worth a fifth to
    neighbours by cosine (experiments/LOG.md, 2026-12-03). As they are, where fewer than two are known. `new_N`: bool,
    the items that training must know nothing of; they are evened out by the others.

    The covariance is estimated as by Ledoit and Wolf (Journal of Multivariate Analysis 88, 2004), who shrink it towards
    equal variances, by a hundredth for 10,000 items of width 384, by half for 100. Of all vectors of such variance
    these are the nearest to the given ones (ZCA), and the same on every machine, as signs of components are not.
    """
    from sklearn.covariance import ledoit_wolf

    known_N = torch.ones(len(vectors_NE), dtype=torch.bool) if new_N is None else ~new_N
    if known_N.sum() < 2:
        return vectors_NE.float()
    centred_NE = vectors_NE.double() - vectors_NE[known_N].double().mean(0)
    covariance_EE, _ = ledoit_wolf(centred_NE[known_N].numpy(), assume_centered=True)
    variance_E, directions_EE = torch.linalg.eigh(torch.from_numpy(covariance_EE))
    if not variance_E.max() > 0:
        return centred_NE.float()
    least = 1e-3 * variance_E.mean()
    return (centred_NE @ directions_EE * variance_E.clamp(min=least).rsqrt() @ directions_EE.T).float()


def nearest_items(vectors_NE: Tensor, most: int, new_N: Tensor | None = None) -> Near:
    """The K items of the greatest cosine with each, greatest first, and none that is new: `most`, or as many as all
    have.

    Every item is held against every other: a second or two for 12,000 items of width 384, two minutes for 100,000, on
    a core of a CPU.
    """
    unit_NE = F.normalize(vectors_NE.float(), dim=1)
    known = len(unit_NE) if new_N is None else int((~new_N).sum())
    wanted, found = min(most, max(known - 1, 0)), []
    rows = max(1, PIECE // len(unit_NE))
    for start in range(0, len(unit_NE), rows):
        cosines_RN = unit_NE[start : start + rows] @ unit_NE.T
        cosines_RN.diagonal(start).fill_(-torch.inf)
        if new_N is not None:
            cosines_RN[:, new_N] = -torch.inf
        found.append(cosines_RN.topk(wanted, dim=1))
    return Near(torch.cat([top.indices for top in found]), torch.cat([top.values for top in found]))
