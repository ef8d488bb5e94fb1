"""Items that share their codes: how many there are, and the extra level that tells them apart.

Legend: N items, L levels.
"""

from collections.abc import Callable

import torch
from torch import Tensor


def groups(codes_NL: Tensor) -> Tensor:
    """(N,) int64: which items have the same codes; numbered from 0 in the order of the codes."""
    key_N, reach = torch.zeros_like(codes_NL[:, 0], dtype=torch.int64), 1
    for code_N in codes_NL.unbind(1):
        size = int(code_N.max()) + 1
        if reach * size >= 2**62:
            key_N = key_N.unique(return_inverse=True)[1]
            reach = int(key_N.max()) + 1
        key_N, reach = key_N * size + code_N, reach * size
    return key_N.unique(return_inverse=True)[1]


def reassign(codes_NL: Tensor, distances: Callable[[Tensor], Tensor]) -> Tensor:
    """Codes (N, L) with as few items that share them as their first L - 1 codes allow: only last codes change.

    Among the items of equal first codes, those that no other equals keep their last code. The others are matched one to
    one with the codes that are left, so that the sum of all distances grows least; where items are more than codes,
    every code gets one, and the other items stay. What an item gets thus depends on all items of the table, unlike
    `Tokenizer.codes`.

    This is LC-Rec's "uniform semantic mapping" (arXiv 2311.09049) as an exact matching. Its Sinkhorn iterations spread
    every set of equal items evenly over the codes: they move nearly all of these items, and some may collide again.

    Args:
        distances: items (B,) -> (B, K) distances of each to the last level's codes.
    """
    shared_N = shares_codes(codes_NL)
    prefix_N = groups(torch.cat([codes_NL[:, :-1], torch.zeros_like(codes_NL[:, :1])], dim=1))
    moved_NL = codes_NL.clone()
    for rows_M in prefix_N.argsort(stable=True).split(torch.bincount(prefix_N).tolist()):
        moving_B, staying_S = rows_M[shared_N[rows_M]], rows_M[~shared_N[rows_M]]
        if len(moving_B):
            moved_NL[moving_B, -1] = matched(codes_NL[moving_B, -1], codes_NL[staying_S, -1], distances(moving_B))
    return moved_NL


def shares_codes(codes_NL: Tensor) -> Tensor:
    """(N,) bool: whether some other item has the same codes."""
    group_N = groups(codes_NL)
    return torch.bincount(group_N)[group_N] > 1


def matched(codes_B: Tensor, taken_S: Tensor, distance_BK: Tensor) -> Tensor:
    """(B,) codes that are not taken, as different as can be, that add least to the sum of distances of `codes_B`."""
    from scipy.optimize import linear_sum_assignment

    free_K = torch.ones(distance_BK.shape[1], dtype=torch.bool)
    free_K[taken_S] = False
    code_F = free_K.nonzero().squeeze(1)
    added_BF = distance_BK[:, code_F] - distance_BK.gather(1, codes_B[:, None])
    rows, columns = linear_sum_assignment(added_BF.numpy())
    new_B = codes_B.clone()
    new_B[rows] = code_F[columns]
    return new_B


def collision_rate(codes_NL: Tensor) -> float:
    """1 - distinct code sequences / items, in [0, 1]."""
    return 1.0 - (int(groups(codes_NL).max()) + 1) / len(codes_NL)


def collision_digit(codes_NL: Tensor, last_N: Tensor | None = None) -> Tensor:
    """(N,) index of every item among the items with the same codes, in item order (TIGER, section 3.1); those of
    `last_N`, (N,) bool, behind the others."""
    group_N = groups(codes_NL)
    order_N = torch.argsort(group_N if last_N is None else 2 * group_N + last_N, stable=True)
    sizes = torch.bincount(group_N)
    first_N = torch.repeat_interleave(sizes.cumsum(0) - sizes, sizes)
    digit_N = torch.empty_like(group_N)
    digit_N[order_N] = torch.arange(len(codes_NL), device=codes_NL.device) - first_N
    return digit_N
