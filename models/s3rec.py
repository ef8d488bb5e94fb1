"""S3-Rec (Zhou et al. 2020, arXiv 2008.07873): SASRec that has first learnt to relate items, attributes and segments.

Legend: B users or windows, T items of a sequence, X hidden items, N items, A attributes of an item, V attribute values,
D width.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.attention import Shape
from models.next_item import INIT_STD, Known, padding_mask
from models.objectives import Objective, bpr
from models.sasrec import SASRec

ATTRIBUTE_WEIGHT, ITEM_WEIGHT, MASKED_ATTRIBUTE_WEIGHT, SEGMENT_WEIGHT = 0.2, 1.0, 1.0, 0.5


class S3Rec(SASRec):
    """First trained on `pretraining_loss`, then as SASRec.

    Pre-training sees both sides of an item, as BERT4Rec. It hides the last item and, of the others, the share `hidden`.
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

    def read(self, item_BT: Tensor, hidden_BT: Tensor) -> Tensor:
        """(B, T, D) states that see both sides, but not the hidden items."""
        embedded_BTD = torch.where(hidden_BT[..., None], self.mask * self.scale, self.embed(item_BT))
        bias = padding_mask(item_BT, embedded_BTD.dtype)
        return self.stack(embedded_BTD + self.position[: item_BT.shape[1]], bias)

    def pretraining_loss(self, windows: Sequence[Tensor]) -> Tensor:
        """The weighted sum of the four losses (equations 5 to 8) over windows, the items (B, T) of each length.

        The authors' weights are for sums over the batch; so is this, but for the number of items, which divides it.
        A segment is read from the first position on, where theirs keeps its place.
        """
        cut = [item_BT[:, : len(self.position)] for item_BT in windows]
        masked_loss = torch.stack([self._masked_loss(item_BT) for item_BT in cut]).sum()
        items = torch.stack([(item_BT >= 0).sum() for item_BT in cut]).sum()
        return (masked_loss + SEGMENT_WEIGHT * self._segment_loss(cut)) / items

    def _masked_loss(self, item_BT: Tensor) -> Tensor:
        """Items and attributes of what is hidden, and attributes of what is not (equations 5 to 7), summed."""
        there_BT = item_BT >= 0
        hidden_BT = there_BT & (torch.rand(item_BT.shape, device=item_BT.device) < self.hidden)
        last_B1 = there_BT.sum(1, keepdim=True) - 1
        hidden_BT = hidden_BT.scatter(1, last_B1, True)  # as what is to come will be
        states_BTD = self.read(item_BT, hidden_BT)
        plain_BT = there_BT & ~hidden_BT
        item_loss = bpr(self.of_masked(states_BTD[hidden_BT]), self.items, item_BT[hidden_BT]) * hidden_BT.sum()
        attribute_loss = self._attribute_loss(self.of_item(states_BTD[plain_BT]), item_BT[plain_BT])
        masked_loss = self._attribute_loss(self.of_hidden(states_BTD[hidden_BT]), item_BT[hidden_BT])
        return ATTRIBUTE_WEIGHT * attribute_loss + ITEM_WEIGHT * item_loss + MASKED_ATTRIBUTE_WEIGHT * masked_loss

    def _attribute_loss(self, states_XD: Tensor, item_X: Tensor) -> Tensor:
        """Binary cross-entropy of all attribute values of the items (equations 5 and 7), summed over both."""
        scores_XV = (states_XD @ self.attributes.T).float()
        attribute_XA = self.attributes_NA[item_X]
        wanted_XV = torch.zeros(len(item_X), len(self.attributes) + 1, device=item_X.device)
        wanted_XV.scatter_(1, attribute_XA.where(attribute_XA >= 0, len(self.attributes)), 1.0)
        return F.binary_cross_entropy_with_logits(scores_XV, wanted_XV[:, :-1], reduction="sum")

    def _segment_loss(self, windows: Sequence[Tensor]) -> Tensor:
        """Hidden segments against those of the windows before, given what is around them (equation 8), summed.

        One window alone has no other: it costs log 2.
        """
        pairs = [self._around_and_inside(item_BT) for item_BT in windows]
        around_BD, segment_BD = (torch.cat(side) for side in zip(*pairs, strict=True))
        around_BD = self.of_segment(around_BD)
        right_B, wrong_B = ((around_BD * other_BD).sum(1) for other_BD in (segment_BD, segment_BD.roll(1, 0)))
        return -F.logsigmoid((right_B - wrong_B).float()).sum()

    def _around_and_inside(self, item_BT: Tensor) -> tuple[Tensor, Tensor]:
        """(B, D) twice: sequences with a random segment hidden, and these segments."""
        length_B = (item_BT >= 0).sum(1)
        place_T = torch.arange(item_BT.shape[1], device=item_BT.device)
        first_B, end_B = draw_segments(length_B)
        inside_BT = (place_T >= first_B[:, None]) & (place_T < end_B[:, None])
        segment_BD = self._summary(*gather_segments(item_BT, first_B, end_B), end_B - first_B)
        return self._summary(item_BT, inside_BT, length_B), segment_BD

    def _summary(self, item_BT: Tensor, hidden_BT: Tensor, length_B: Tensor) -> Tensor:
        """(B, D), the state of the last item."""
        states_BTD = self.read(item_BT, hidden_BT)
        return states_BTD[torch.arange(len(length_B), device=length_B.device), length_B - 1]


def draw_segments(length_B: Tensor) -> tuple[Tensor, Tensor]:
    """First item and end of a random segment of every sequence: 1 to half of its items."""
    draw_2B = torch.rand(2, len(length_B), device=length_B.device)
    size_B = 1 + (draw_2B[0] * (length_B // 2).clamp_min(1)).long()
    first_B = (draw_2B[1] * (length_B - size_B + 1)).long()
    return first_B, first_B + size_B


def gather_segments(item_BT: Tensor, first_B: Tensor, end_B: Tensor) -> tuple[Tensor, Tensor]:
    """The segments as sequences (B, T) of their own, and that nothing of them is hidden."""
    place_BT = first_B[:, None] + torch.arange(item_BT.shape[1], device=item_BT.device)
    segment_BT = item_BT.gather(1, place_BT.clamp_max(item_BT.shape[1] - 1)).masked_fill(place_BT >= end_B[:, None], -1)
    return segment_BT, torch.zeros_like(segment_BT, dtype=torch.bool)
