"""BERT4Rec (Sun et al. 2019, arXiv 1904.06690): a transformer that sees both sides, trained on hidden items.

Legend: B users, T items of a sequence, X hidden items, N items, D width.
"""

from collections.abc import Sequence
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.attention import Shape, in_float32
from models.next_item import INIT_STD, Known, NextItem, Windows, at_once, chosen, looked_up, padding_mask, products
from models.objectives import Objective
from models.transformer import CausalStack

LAST_ALONE = 0.1
"""Share of the sequences of which the last item alone is hidden, as when it is asked for."""


class BERT4Rec(NextItem):
    """`hidden` is the share of items that training hides. Every item of a window may be, not only targets."""

    def __init__(self, known: Known, shape: Shape, hidden: float, objective: Objective) -> None:
        super().__init__(known, shape.width, objective)
        self.hidden = hidden
        self.mask = nn.Parameter(torch.empty(shape.width).normal_(std=INIT_STD))
        self.position = nn.Parameter(torch.empty(known.max_items + 1, shape.width).normal_(std=INIT_STD))
        self.input_norm = nn.LayerNorm(shape.width)
        self.stack = CausalStack(shape)
        self.transform, self.norm = nn.Linear(shape.width, shape.width), nn.LayerNorm(shape.width)

    def read(self, items: Sequence[Tensor], hidden: Sequence[Tensor]) -> list[Tensor]:
        """(B, T, D) states that see all items (B, T) but the hidden ones, for each of several parts."""
        # Normalised, not times sqrt(D): only positions tell the order here, and must not be lost beside the items.
        inputs = []
        for item_BTD, hidden_BT in zip(at_once(partial(looked_up, self.items), items), hidden, strict=True):
            embedded_BTD = torch.where(hidden_BT[..., None], self.mask, item_BTD)
            inputs.append(self.input_norm(embedded_BTD + self.position[: item_BTD.shape[1]]))
        return self.stack.packed(inputs, [padding_mask(item_BT, self.position.dtype) for item_BT in items])

    def answers(self, states_XD: Tensor) -> Tensor:
        """(X, D), whose inner products with items are scores, from states where an item is hidden."""
        with in_float32():
            answers_XD: Tensor = self.norm(F.gelu(self.transform(states_XD)))
        return answers_XD

    def window_loss(self, windows: Sequence[Windows]) -> Tensor:
        items = [item_BT for item_BT, _, _ in windows]
        hidden = [self.choose(item_BT) for item_BT in items]
        states_XD = torch.cat(chosen(self.read(items, hidden), hidden))
        return self.objective(self.answers(states_XD), self.items, torch.cat(chosen(items, hidden)))

    def choose(self, item_BT: Tensor) -> Tensor:
        """(B, T), which items to hide: a share of each sequence, at least one and not all of several, or the last
        alone."""
        there_BT = item_BT >= 0
        draw_BT = torch.rand(item_BT.shape, device=item_BT.device).masked_fill(~there_BT, 2.0)
        least_B1 = draw_BT.amin(1, keepdim=True)
        shown_BT = draw_BT == draw_BT.masked_fill(~there_BT, -1.0).amax(1, keepdim=True)
        hidden_BT = ((draw_BT <= self.hidden) & ~shown_BT) | (draw_BT == least_B1)
        last_BT = torch.arange(item_BT.shape[1], device=item_BT.device) == there_BT.sum(1, keepdim=True) - 1
        alone_B1 = torch.rand(len(item_BT), 1, device=item_BT.device) < LAST_ALONE
        return torch.where(alone_B1, last_BT, hidden_BT & there_BT)

    def scores(self, history_BT: Tensor, user_B: Tensor) -> Tensor:
        length_B1 = (history_BT >= 0).sum(1, keepdim=True)
        asked_BT = F.pad(history_BT, (0, 1), value=-1).scatter(1, length_B1, 0)
        place_BT = torch.arange(asked_BT.shape[1], device=asked_BT.device) == length_B1
        (states_BTD,) = self.read([asked_BT], [place_BT])
        return products(self.answers(states_BTD[place_BT]), self.items)
