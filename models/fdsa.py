"""FDSA (Zhang et al. 2019, IJCAI): SASRec over items beside one over their attributes.

Legend: B users, T items of a sequence, N items, A attributes of an item, D width.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.attention import Shape
from models.next_item import INIT_STD, Known, NextItem
from models.objectives import Objective
from models.transformer import CausalStack


class FDSA(NextItem):
    def __init__(self, known: Known, shape: Shape, objective: Objective) -> None:
        super().__init__(known, shape.width, objective)
        if known.attributes_NA is None:
            raise ValueError("FDSA needs the attributes of the items")
        self.register_buffer("attributes_NA", known.attributes_NA, persistent=False)
        self.attributes_NA: Tensor
        values = int(known.attributes_NA.max()) + 1
        self.attributes = nn.Parameter(torch.empty(max(values, 1), shape.width).normal_(std=INIT_STD))
        self.weigh = nn.Linear(shape.width, 1)
        self.position = nn.Parameter(torch.empty(known.max_items, shape.width).normal_(std=INIT_STD))
        self.item_stack, self.feature_stack = CausalStack(shape), CausalStack(shape)
        self.out = nn.Linear(2 * shape.width, shape.width)

    def features(self, item_BT: Tensor) -> Tensor:
        """(B, T, D), the attributes of every item, weighed by attention; zero where there are none."""
        attribute_BTA = self.attributes_NA[item_BT.clamp_min(0)].masked_fill((item_BT < 0)[..., None], -1)
        embedded_BTAD = F.embedding(attribute_BTA.clamp_min(0), self.attributes)
        absent_BTA = attribute_BTA < 0
        score_BTA = self.weigh(embedded_BTAD)[..., 0].masked_fill(absent_BTA, -1e4)
        weight_BTA = score_BTA.softmax(2).masked_fill(absent_BTA, 0.0)
        return torch.einsum("bta,btad->btd", weight_BTA.to(embedded_BTAD.dtype), embedded_BTAD)

    def states(self, item_BT: Tensor, user_B: Tensor) -> Tensor:
        position_TD = self.position[: item_BT.shape[1]]
        item_BTD = self.item_stack(self.embed(item_BT) + position_TD)
        feature_BTD = self.feature_stack(self.features(item_BT) * self.scale + position_TD)
        return self.out(torch.cat([item_BTD, feature_BTD], dim=2))
