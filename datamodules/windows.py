"""Whole users as training samples: windows in which a causal model predicts every item from those before it.

Legend: U users, E examples, W windows.
"""

from typing import NamedTuple

import numpy as np

from datamodules.split import Examples


class Windows(NamedTuple):
    """Stretches of Catalog.item_M. The targets of a window are [first_W, end_W); what comes before is history only.

    Attributes:
        user_W: (W,) the user.
        start_W: (W,) the oldest item.
        first_W: (W,) the first target.
        end_W: (W,) behind the last target.
    """

    user_W: np.ndarray
    start_W: np.ndarray
    first_W: np.ndarray
    end_W: np.ndarray


def cut_windows(examples: Examples, offsets_U1: np.ndarray, max_items: int, stride: int) -> Windows:
    """Windows of at most `max_items` + 1 items that have every example's target exactly once.

    The first window of a user starts at the oldest item, or, if the first target lies beyond its end, holds the first
    `stride` targets. Where more follow, each moves on by `stride` items (the last by what is left), so a target sees at
    least max_items + 1 - stride items, and all there are where the user has no more than `max_items`. The targets of
    one user must lie side by side, in rising order.
    """
    user_V, begins_V, count_V = np.unique(examples.user_E, return_index=True, return_counts=True)
    first_V, end_V = examples.target_E[begins_V], examples.target_E[begins_V] + count_V
    if not np.array_equal(examples.target_E, examples.end_E):
        raise ValueError("targets of a user without an order cannot share a window; learn from prefixes")
    if not np.array_equal(examples.target_E[begins_V + count_V - 1], end_V - 1):
        raise ValueError("a user's targets have gaps; windows need every item between the first and the last")
    origin_V = offsets_U1[user_V].astype(np.int64)
    longest = max_items + 1
    within_V = first_V < origin_V + longest
    reach_V = np.minimum(np.where(within_V, origin_V + longest, first_V + stride), end_V)
    windows_V = 1 - (reach_V - end_V) // stride
    user_W = np.repeat(np.arange(len(user_V)), windows_V)
    number_W = np.arange(len(user_W)) - np.repeat(np.cumsum(windows_V) - windows_V, windows_V)
    end_W = np.minimum(reach_V[user_W] + number_W * stride, end_V[user_W])
    first_W = np.where(number_W == 0, first_V[user_W], reach_V[user_W] + (number_W - 1) * stride)
    start_W = np.maximum(origin_V[user_W], end_W - longest)
    return Windows(user_V[user_W], start_W, first_W, end_W)
