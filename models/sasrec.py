"""SASRec (Kang & McAuley 2018, arXiv 1808.09781): a causal transformer over items.

Pre-norm RMSNorm layers (`models.transformer.CausalStack`); the published one has LayerNorm.
Legend: B users, T items of a sequence, D width.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from models.attention import Shape
from models.next_item import INIT_STD, Known, NextItem, at_once
from models.objectives import Objective
from models.transformer import CausalStack


class SASRec(NextItem):
    def __init__(self, known: Known, shape: Shape, objective: Objective) -> None:
        super().__init__(known, shape.width, objective)
        self.position = nn.Parameter(torch.empty(known.max_items, shape.width).normal_(std=INIT_STD))
        self.stack = CausalStack(shape)

    def states(self, item_BT: Tensor, user_B: Tensor) -> Tensor:
        return self.states_of([(item_BT, user_B)])[0]

    def states_of(self, parts: Sequence[tuple[Tensor, Tensor]]) -> list[Tensor]:
        embedded = at_once(self.embed, [item_BT for item_BT, _ in parts])
        return self.stack.packed([self.placed(item_BTD) for item_BTD in embedded])

    def placed(self, item_BTD: Tensor) -> Tensor:
        """With what tells the order."""
        return item_BTD + self.position[: item_BTD.shape[1]]
