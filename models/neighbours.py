"""The items whose content is nearest to each item's.

Legend: N items, K neighbours, E width of content, R rows of a piece.
"""

from collections.abc import Callable
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

    def each(self, fn: Callable[[Tensor], Tensor]) -> "Near":
        return Near(*map(fn, self))


def nearest_items(vectors_NE: Tensor, most: int, new_N: Tensor | None = None) -> Near:
    """The K items of the greatest cosine with each, greatest first, and none that is new: `most`, or as many as all
    have.

    Every item is held against every other: a second or two for 12,000 items of width 384, two minutes for 100,000.
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
