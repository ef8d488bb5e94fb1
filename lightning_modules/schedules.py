"""Learning-rate schedules as multipliers of the base rate."""

import math
from collections.abc import Callable


def inverse_sqrt(warmup: int) -> Callable[[int], float]:
    """Linear to 1 over `warmup` steps, then sqrt(warmup / step), as T5, whose rate is constant before."""
    warmup = max(warmup, 1)
    return lambda step: min((step + 1) / warmup, math.sqrt(warmup / (step + 1)))


def constant(warmup: int) -> Callable[[int], float]:
    """Linear to 1 over `warmup` steps, then 1."""
    return lambda step: min((step + 1) / max(warmup, 1), 1.0)


def cosine(warmup: int, total: int) -> Callable[[int], float]:
    """Linear to 1 over `warmup` steps, then half a cosine to 0 at `total`."""

    def factor(step: int) -> float:
        if step < warmup:
            return (step + 1) / warmup
        progress = min(1.0, (step - warmup) / max(1, total - warmup))
        return 0.5 * (1 + math.cos(math.pi * progress))

    return factor
