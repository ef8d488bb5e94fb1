"""Nearest neighbours of a history by the items' vectors: no training, but a bar for models that learn.

Legend: B users, T items of a history, N items, D width.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.next_item import Known, products
from sid.vectors import centred


class ItemKNN(nn.Module):
    """Scores are cosines, around the mean of all items, with the history's items, added up; an item that is k items
    back counts `decay`^k."""

    def __init__(self, known: Known, decay: float) -> None:
        super().__init__()
        if known.vectors_ND is None:
            raise ValueError("ItemKNN needs the vectors of the items")
        self.decay = decay
        self.register_buffer("unit_ND", F.normalize(centred(known.vectors_ND.numpy()), dim=1), persistent=False)
        self.unit_ND: Tensor

    def scores(self, history_BT: Tensor, user_B: Tensor) -> Tensor:
        """(B, N) sums of cosines, without the items of the history itself."""
        there_BT = history_BT >= 0
        back_BT = there_BT.sum(1, keepdim=True) - 1 - torch.arange(history_BT.shape[1], device=history_BT.device)
        weight_BT = (self.decay ** back_BT.clamp_min(0).float()) * there_BT
        query_BD = (weight_BT[..., None] * self.unit_ND[history_BT.clamp_min(0)]).sum(1)
        scores_BN = products(query_BD, self.unit_ND)
        seen_BT = torch.where(there_BT, history_BT, len(self.unit_ND))
        return F.pad(scores_BN, (0, 1)).scatter(1, seen_BT, -torch.inf)[:, :-1]
