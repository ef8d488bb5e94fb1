"""HSTU (Zhai et al. 2024, arXiv 2402.17152) as an encoder over items: attention by SiLU instead of a softmax.

Without the paper's bias by time: histories carry no times here. Unlike in the released code every head has its own bias
by distance, norms have weights and biases, states are scaled to a length of sqrt(D) and meet items of free length
(there both have unit length, over a temperature of .05), and projections start as torch's do.
Legend: B users, T items of a sequence, D width, H heads, E head width.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.dropout import dropout
from models.next_item import INIT_STD, Known, NextItem
from models.objectives import Objective


class HSTULayer(nn.Module):
    """Pointwise projection, spatial aggregation, pointwise transformation (equations 1 to 3)."""

    def __init__(self, width: int, num_heads: int, max_items: int, rate: float) -> None:
        super().__init__()
        self.num_heads, self.max_items, self.rate = num_heads, max_items, rate
        self.norm, self.attended_norm = nn.LayerNorm(width, 1e-6), nn.LayerNorm(width, 1e-6)
        self.fused = nn.Linear(width, 4 * width, bias=False)
        self.out = nn.Linear(width, width)
        self.distance = nn.Parameter(torch.empty(num_heads, max_items).normal_(std=INIT_STD))
        """Bias by head and distance."""

    def forward(self, x_BTD: Tensor) -> Tensor:
        gate, query, key, value = F.silu(self.fused(self.norm(x_BTD))).chunk(4, dim=-1)
        query, key, value = (part.unflatten(-1, (self.num_heads, -1)).transpose(1, 2) for part in (query, key, value))
        place_T = torch.arange(x_BTD.shape[1], device=x_BTD.device)
        back_TT = place_T[:, None] - place_T
        scores_BHTT = query @ key.transpose(-1, -2) + self.distance[:, back_TT.clamp_min(0)]
        weights_BHTT = F.silu(scores_BHTT).masked_fill(back_TT < 0, 0.0) / self.max_items
        attended_BTD = self.attended_norm((weights_BHTT @ value).transpose(1, 2).flatten(2))
        return x_BTD + self.out(dropout(gate * attended_BTD, self.rate, self.training))


class HSTU(NextItem):
    def __init__(
        self, known: Known, width: int, num_layers: int, num_heads: int, rate: float, objective: Objective
    ) -> None:
        super().__init__(known, width, objective)
        self.rate = rate
        self.position = nn.Parameter(torch.empty(known.max_items, width).normal_(std=INIT_STD))
        self.layers = nn.ModuleList(HSTULayer(width, num_heads, known.max_items, rate) for _ in range(num_layers))

    def states(self, item_BT: Tensor, user_B: Tensor) -> Tensor:
        x_BTD = dropout(self.embed(item_BT) + self.position[: item_BT.shape[1]], self.rate, self.training)
        for layer in self.layers:
            x_BTD = layer(x_BTD)
        return F.normalize(x_BTD, dim=-1) * x_BTD.shape[-1] ** 0.5
