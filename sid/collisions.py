"""Items that share their codes: how many there are, and the extra level that tells them apart.

Legend: N items, L levels.
"""

import torch
from torch import Tensor


def collision_rate(codes_NL: Tensor) -> float:
    """1 - distinct code sequences / items, in [0, 1]."""
    return 1.0 - len(codes_NL.unique(dim=0)) / len(codes_NL)


def collision_digit(codes_NL: Tensor) -> Tensor:
    """(N,) index of every item among the items with the same codes, in item order (TIGER, section 3.1)."""
    _, group_N = codes_NL.unique(dim=0, return_inverse=True)
    order_N = torch.argsort(group_N, stable=True)
    sizes = torch.bincount(group_N)
    first_N = torch.repeat_interleave(sizes.cumsum(0) - sizes, sizes)
    digit_N = torch.empty_like(group_N)
    digit_N[order_N] = torch.arange(len(codes_NL), device=codes_NL.device) - first_N
    return digit_N
