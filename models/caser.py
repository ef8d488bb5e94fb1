"""Caser (Tang & Wang 2018, arXiv 1809.07426): convolutions over the last few items, beside a user embedding.

Every place of a sequence is a target here, where the published code cuts a sequence into samples.
Legend: B users, T items of a sequence, L items that a place sees, D width, V vertical filters, H horizontal filters.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.dropout import dropout
from models.next_item import INIT_STD, Known, NextItem, looked_up, recent
from models.objectives import Objective


class Caser(NextItem):
    def __init__(
        self,
        known: Known,
        width: int,
        length: int,
        vertical: int,
        horizontal: int,
        rate: float,
        objective: Objective,
    ) -> None:
        super().__init__(known, width, objective, state_width=2 * width)
        self.length, self.rate = length, rate
        self.users = nn.Parameter(torch.empty(known.num_users, width).normal_(std=INIT_STD))
        self.vertical = nn.Linear(length, vertical)
        self.horizontal = nn.ModuleList(nn.Conv1d(width, horizontal, height) for height in range(1, length + 1))
        for layer in (self.vertical, *self.horizontal):
            nn.init.zeros_(layer.bias)
        self.out = nn.Linear(vertical * width + horizontal * length, width)

    def states(self, item_BT: Tensor, user_B: Tensor) -> Tensor:
        embedded_BTD = self.embed(item_BT)
        vertical_BTDV = self.vertical(recent(embedded_BTD, self.length).transpose(2, 3))
        # A filter's answers are shared by all places that see it: its best within a place is a sliding maximum.
        padded_BDT = F.pad(embedded_BTD, (0, 0, self.length - 1, 0)).transpose(1, 2)
        best = []
        for height, convolution in enumerate(self.horizontal, 1):
            found_BHT = convolution(padded_BDT).relu()
            best.append(found_BHT.unfold(2, self.length - height + 1, 1).amax(3).transpose(1, 2))
        joined = torch.cat([vertical_BTDV.flatten(2), *best], dim=2)
        states_BTD = self.out(dropout(joined, self.rate, self.training)).relu()
        return torch.cat([states_BTD, looked_up(self.users, user_B)[:, None].expand_as(states_BTD)], dim=2)
