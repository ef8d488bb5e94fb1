"""Popularity: the most frequent training items, for everybody. Legend: B users, T items of a history, N items."""

from torch import Tensor, nn

from models.next_item import Known


class Popularity(nn.Module):
    def __init__(self, known: Known) -> None:
        super().__init__()
        self.register_buffer("counts_N", known.counts_N.float())
        self.counts_N: Tensor

    def scores(self, history_BT: Tensor, user_B: Tensor) -> Tensor:
        """(B, N) counts."""
        return self.counts_N.expand(len(history_BT), -1)
