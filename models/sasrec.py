"""SASRec (Kang & McAuley 2018, arXiv 1808.09781): a causal transformer over items.

Pre-norm RMSNorm layers (`models.transformer.CausalStack`); the published one has LayerNorm.
Legend: B users, T items of a sequence, D width.
"""

import torch
from torch import Tensor, nn

from models.attention import Shape
from models.next_item import INIT_STD, Known, NextItem
from models.objectives import Objective
from models.transformer import CausalStack


class SASRec(NextItem):
    def __init__(self, known: Known, shape: Shape, objective: Objective) -> None:
        super().__init__(known, shape.width, objective)
        self.position = nn.Parameter(torch.empty(known.max_items, shape.width).normal_(std=INIT_STD))
        self.stack = CausalStack(shape)

    def states(self, item_BT: Tensor, user_B: Tensor) -> Tensor:
        return self.stack(self.embed(item_BT) + self.position[: item_BT.shape[1]])
