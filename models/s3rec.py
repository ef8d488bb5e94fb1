"""S3-Rec (Zhou et al. 2020, arXiv 2008.07873): SASRec that has first learnt to relate items, attributes and segments.

Legend: B users or windows, T items of a sequence, X hidden items, N items, A attributes of an item, V attribute values,
D width.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.attention import Shape, in_float32
from models.next_item import INIT_STD, Known, at, at_once, chosen, padding_mask
from models.objectives import Objective, bpr
from models.sasrec import SASRec
from models.transformer import rounded

ATTRIBUTE_WEIGHT, ITEM_WEIGHT, MASKED_ATTRIBUTE_WEIGHT, SEGMENT_WEIGHT = 0.2, 1.0, 1.0, 0.5


class S3Rec(SASRec):
    """First trained on `pretraining_loss`, then as SASRec.

    Pre-training sees both sides of an item, as BERT4Rec. It hides the last item and, of the others, the share `hidden`.
    A user's items are one sequence of it, or as many as fit `max_items`, where the authors' code makes one of every
    beginning; and other items, of which hidden ones are told, are any but the target, where theirs are none of the
    sequence.
    """

    def __init__(self, known: Known, shape: Shape, hidden: float, objective: Objective) -> None:
        super().__init__(known, shape, objective)
        if known.attributes_NA is None:
            raise ValueError("S3-Rec needs the attributes of the items")
        self.hidden = hidden
        self.register_buffer("attributes_NA", known.attributes_NA, persistent=False)
        self.attributes_NA: Tensor
        values = int(known.attributes_NA.max()) + 1
        self.attributes = nn.Parameter(torch.empty(max(values, 1), shape.width).normal_(std=INIT_STD))
        self.mask = nn.Parameter(torch.empty(shape.width).normal_(std=INIT_STD))
        self.of_item, self.of_masked, self.of_hidden, self.of_segment = (
            nn.Linear(shape.width, shape.width, bias=False) for _ in range(4)
        )

    def end_pretraining(self) -> None:
        """What was learnt for it alone is not trained any more: DDP asks for a gradient of all that is."""
        layers = (self.of_item, self.of_masked, self.of_hidden, self.of_segment)
        for parameter in (self.attributes, self.mask, *(layer.weight for layer in layers)):
            parameter.requires_grad_(False)

    def read(self, items: Sequence[Tensor], hidden: Sequence[Tensor]) -> list[Tensor]:
        """(B, T, D) states that see both sides of items (B, T), but not the hidden ones, for each of several parts."""
        inputs = [
            self.placed(torch.where(hidden_BT[..., None], self.mask * self.scale, item_BTD))
            for item_BTD, hidden_BT in zip(at_once(self.embed, items), hidden, strict=True)
        ]
        return self.stack.packed(inputs, [padding_mask(item_BT, self.position.dtype) for item_BT in items])

    def pretraining_loss(self, windows: Sequence[Tensor]) -> Tensor:
        """The weighted sum of the four losses (equations 5 to 8) over windows, the items (B, T) of each length.

        The authors' weights are for sums over the batch; so is this, but for the number of items, which divides it.
        A segment is read from the first position on, where theirs keeps its place.
        """
        cut = [item_BT[:, : len(self.position)] for item_BT in windows]
        items = torch.stack([(item_BT >= 0).sum() for item_BT in cut]).sum()
        return (self._masked_loss(cut) + SEGMENT_WEIGHT * self._segment_loss(cut)) / items

    def _masked_loss(self, windows: Sequence[Tensor]) -> Tensor:
        """Items and attributes of what is hidden, and attributes of what is not (equations 5 to 7), summed."""
        hidden = [self._hide(item_BT) for item_BT in windows]
        plain = [(item_BT >= 0) & ~hidden_BT for item_BT, hidden_BT in zip(windows, hidden, strict=True)]
        states = self.read(windows, hidden)
        hidden_XD, plain_XD = (torch.cat(chosen(states, places)) for places in (hidden, plain))
        hidden_X, plain_X = (torch.cat(chosen(windows, places)) for places in (hidden, plain))
        with in_float32():
            asked = [(self.of_hidden(hidden_XD), hidden_X, MASKED_ATTRIBUTE_WEIGHT)]
            asked.append((self.of_item(plain_XD), plain_X, ATTRIBUTE_WEIGHT))
            item_loss = bpr(self.of_masked(hidden_XD), self.items, hidden_X) * len(hidden_X)
        return ITEM_WEIGHT * item_loss + self._attribute_loss(asked)

    def _hide(self, item_BT: Tensor) -> Tensor:
        """(B, T): a share, and the last item, as what is to come will be hidden."""
        there_BT = item_BT >= 0
        hidden_BT = there_BT & (torch.rand(item_BT.shape, device=item_BT.device) < self.hidden)
        return hidden_BT.scatter(1, there_BT.sum(1, keepdim=True) - 1, True)

    def _attribute_loss(self, asked: Sequence[tuple[Tensor, Tensor, float]]) -> Tensor:
        """Binary cross-entropy of all attribute values of items (equations 5 and 7), asked with states (X, D), items
        (X,) and a weight each, summed over both."""
        item_X = torch.cat([item_X for _, item_X, _ in asked])
        weight_X = torch.cat([torch.full_like(item_X, weight, dtype=torch.float32) for _, item_X, weight in asked])
        states_XD = torch.cat([states_XD for states_XD, _, _ in asked])
        scores_XV = (rounded(states_XD) @ self.attributes.T)[: len(item_X)].float()
        attribute_XA = self.attributes_NA[item_X]
        right_XA = scores_XV.gather(1, attribute_XA.clamp_min(0)) * (attribute_XA >= 0)
        return (weight_X * (F.softplus(scores_XV).sum(1) - right_XA.sum(1))).sum()

    def _segment_loss(self, windows: Sequence[Tensor]) -> Tensor:
        """Hidden segments against those of the windows before, given what is around them (equation 8), summed.

        One window alone has no other: it costs log 2.
        """
        around_BD, segment_BD = self._around_and_inside(windows)
        with in_float32():
            around_BD = self.of_segment(around_BD)
        right_B, wrong_B = ((around_BD * other_BD).sum(1) for other_BD in (segment_BD, segment_BD.roll(1, 0)))
        return -F.logsigmoid((right_B - wrong_B).float()).sum()

    def _around_and_inside(self, windows: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """(B, D) twice: the windows with a random segment hidden, and these segments."""
        hidden, segments = [], []
        for item_BT in windows:
            first_B, end_B = draw_segments((item_BT >= 0).sum(1))
            place_T = torch.arange(item_BT.shape[1], device=item_BT.device)
            hidden.append((place_T >= first_B[:, None]) & (place_T < end_B[:, None]))
            segments.append(gather_segments(item_BT, first_B, end_B))
        nothing = [torch.zeros_like(item_BT, dtype=torch.bool) for item_BT in segments]
        asked = [*windows, *segments]
        states = self.read(asked, [*hidden, *nothing])
        last = [at(x_BTD, (item_BT >= 0).sum(1) - 1) for x_BTD, item_BT in zip(states, asked, strict=True)]
        return torch.cat(last[: len(windows)]), torch.cat(last[len(windows) :])


def draw_segments(length_B: Tensor) -> tuple[Tensor, Tensor]:
    """First item and end of a random segment of every sequence: 1 to half of its items."""
    draw_2B = torch.rand(2, len(length_B), device=length_B.device)
    size_B = 1 + (draw_2B[0] * (length_B // 2).clamp_min(1)).long()
    first_B = (draw_2B[1] * (length_B - size_B + 1)).long()
    return first_B, first_B + size_B


def gather_segments(item_BT: Tensor, first_B: Tensor, end_B: Tensor) -> Tensor:
    """The segments as sequences (B, T) of their own."""
    place_BT = first_B[:, None] + torch.arange(item_BT.shape[1], device=item_BT.device)
    segment_BT = item_BT.gather(1, place_BT.clamp_max(item_BT.shape[1] - 1))
    return segment_BT.masked_fill(place_BT >= end_B[:, None], -1)
