"""HGN (Ma et al. 2019, arXiv 1906.09217): gates over the features and the items of the last few items.

Unlike in the released code gated items have dropout, places without an item count nothing (there windows are full), and
weights start as other models' here.

Legend: B users, T items of a sequence, L items that a place sees, D width.
"""

import torch
from torch import Tensor, nn

from models.dropout import dropout
from models.next_item import INIT_STD, Known, NextItem, looked_up, recent
from models.objectives import Objective


class HGN(NextItem):
    def __init__(self, known: Known, width: int, length: int, rate: float, objective: Objective) -> None:
        super().__init__(known, width, objective, state_width=width)
        self.length, self.rate = length, rate
        self.users = nn.Parameter(torch.empty(known.num_users, width).normal_(std=INIT_STD))
        self.feature, self.feature_user = nn.Linear(width, width), nn.Linear(width, width, bias=False)
        self.instance, self.instance_user = nn.Linear(width, 1, bias=False), nn.Linear(width, length, bias=False)

    def states(self, item_BT: Tensor, user_B: Tensor) -> Tensor:
        """The user, the gated items and the items themselves: inner products with an item add up (equation 11)."""
        user_B1D = looked_up(self.users, user_B)[:, None]
        item_BTLD = recent(looked_up(self.items, item_BT), self.length)
        there_BTL = recent((item_BT >= 0)[..., None].float(), self.length)[..., 0]
        opening_BTLD = (self.feature(item_BTLD) + self.feature_user(user_B1D)[:, :, None]).sigmoid()
        gated_BTLD = dropout(item_BTLD * opening_BTLD, self.rate, self.training)
        weight_BTL = (self.instance(gated_BTLD)[..., 0] + self.instance_user(user_B1D)).sigmoid() * there_BTL
        weight_BTL = weight_BTL / weight_BTL.sum(2, keepdim=True).clamp_min(1e-6)
        return user_B1D + torch.einsum("btl,btld->btd", weight_BTL, gated_BTLD) + item_BTLD.sum(2)
