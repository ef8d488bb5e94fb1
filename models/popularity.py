"""Popularity: the most frequent training items, for everybody. Legend: B users, T items of a history, N items."""

import torch
from torch import Tensor, nn

from models.next_item import Known


class Popularity(nn.Module):
    def __init__(self, known: Known) -> None:
        super().__init__()
        order_N = known.counts_N.argsort(descending=True, stable=True)
        score_N = torch.empty(len(order_N)).scatter_(0, order_N, -torch.arange(1.0, len(order_N) + 1))
        self.register_buffer("score_N", score_N)
        self.score_N: Tensor

    def scores(self, history_BT: Tensor, user_B: Tensor) -> Tensor:
        """(B, N) minus the rank; of equally frequent items the one with the lower number comes first."""
        return self.score_N.expand(history_BT.shape[0], -1)
