"""A small catalogue and histories for the rivals, for `test_rivals.py`, `test_hiding.py` and `test_rpg.py`.

Legend: B users, T items of a sequence, N items, L levels, D width.
"""

from typing import Any

import torch
from torch import Tensor

from models.classic_configs import ClassicConfig
from models.next_item import Known, NextItem

ITEMS, USERS, LONGEST = 40, 50, 6
SMALL: dict[str, Any] = {"width": 32, "dropout": 0.0}


def known() -> Known:
    draw = torch.Generator().manual_seed(0)
    attributes_NA = torch.randint(-1, 5, (ITEMS, 2), generator=draw).sort(1, descending=True).values
    attributes_NA[attributes_NA[:, 0] == attributes_NA[:, 1], 1] = -1
    vectors_ND = torch.randn(ITEMS, 8, generator=draw)
    item_N = torch.arange(ITEMS)
    codes_NL = torch.stack([item_N // 8, item_N % 8, item_N * 3 % 7], dim=1)
    return Known(ITEMS, USERS, LONGEST, item_N, vectors_ND, attributes_NA, codes_NL)


def built(config: ClassicConfig) -> Any:
    torch.manual_seed(0)
    return config.build(known())


def name_of(config: object) -> str:
    return type(config).__name__.removesuffix("Config")


def histories(count: int = 5) -> tuple[Tensor, Tensor]:
    """Histories of 1 to LONGEST items, and their users."""
    draw = torch.Generator().manual_seed(1)
    item_BT = torch.randint(0, ITEMS, (count, LONGEST), generator=draw)
    length_B = 1 + torch.arange(count) % LONGEST
    return item_BT.masked_fill(torch.arange(LONGEST) >= length_B[:, None], -1), torch.arange(count)


def as_read(model: NextItem) -> Tensor:
    """(N, D), what items of a history are to the model."""
    return model.items * model.items.shape[1] ** 0.5
