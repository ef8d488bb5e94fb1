"""Numbers that are told from each other, and a slow twin of what they are added to. Legend: V codes of a level."""

import torch

from models.copying import RATE, Copying


@torch.no_grad()
def numbered(copying: Copying) -> Copying:
    """With 1, 2, ... for codes of the levels that lead to others, too, and 10, 20, ... for those of one item only."""
    number_L = torch.arange(1.0, 1 + len(copying.more))
    copying.more.copy_(number_L / RATE)
    copying.again.copy_(10 * number_L / RATE)
    return copying


def slow_added(size: int, catalog: list[list[int]], history: list[list[int]], prefix: list[int]) -> list[float]:
    """(V,) what the codes behind a prefix get, of a level of this size."""
    level = len(prefix)
    added_V = [0.0] * size
    for codes in history:
        if codes[:level] == prefix:
            alone = sum(other[: level + 1] == codes[: level + 1] for other in catalog) == 1
            added_V[codes[level]] = (10.0 if alone else 1.0) * (level + 1)
    return added_V
