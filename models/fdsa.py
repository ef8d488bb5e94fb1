"""FDSA (Zhang et al. 2019, IJCAI): SASRec over items beside one over their attributes.

Legend: B users, T items of a sequence, N items, A attributes of an item, D width.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.attention import Shape
from models.next_item import INIT_STD, Known, NextItem, at_once
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

    def features(self, items: Tensor) -> Tensor:
        """(..., D), the attributes of every item (...), weighed by attention; zero where there are none."""
        attributes = self.attributes_NA[items.clamp_min(0)].masked_fill((items < 0)[..., None], -1)
        embedded = F.embedding(attributes.clamp_min(0), self.attributes)
        absent = attributes < 0
        score = self.weigh(embedded)[..., 0].masked_fill(absent, -1e4)
        weight = score.softmax(-1).masked_fill(absent, 0.0)
        return torch.einsum("...a,...ad->...d", weight.to(embedded.dtype), embedded)

    def states(self, item_BT: Tensor, user_B: Tensor) -> Tensor:
        return self.states_of([(item_BT, user_B)])[0]

    def states_of(self, parts: Sequence[tuple[Tensor, Tensor]]) -> list[Tensor]:
        items = [item_BT for item_BT, _ in parts]
        of_items, of_features = (
            stack.packed([x_BTD + self.position[: x_BTD.shape[1]] for x_BTD in at_once(look_up, items)])
            for stack, look_up in ((self.item_stack, self.embed), (self.feature_stack, self.scaled_features))
        )
        return [self.out(torch.cat(pair, dim=2)) for pair in zip(of_items, of_features, strict=True)]

    def scaled_features(self, items: Tensor) -> Tensor:
        """`features`, as large as items are read."""
        return self.features(items) * self.scale
