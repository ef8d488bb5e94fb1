"""GRU4Rec (Hidasi et al. 2016, arXiv 1511.06939): a recurrent network over items.

Legend: B users, T items of a sequence, D width, H width within.
"""

from torch import Tensor, nn

from models.dropout import dropout
from models.next_item import Known, NextItem, at
from models.objectives import Objective


class GRU4Rec(NextItem):
    def __init__(
        self, known: Known, width: int, hidden: int, num_layers: int, rate: float, objective: Objective
    ) -> None:
        super().__init__(known, width, objective)
        self.rate = rate
        self.recurrent = nn.GRU(width, hidden, num_layers, batch_first=True, bias=False)
        self.out = nn.Linear(hidden, width)

    def states(self, item_BT: Tensor, user_B: Tensor) -> Tensor:
        return self.out(self.hidden(item_BT))

    def state_at(self, place_B: Tensor, item_BT: Tensor, user_B: Tensor) -> Tensor:
        return self.out(at(self.hidden(item_BT), place_B))

    def hidden(self, item_BT: Tensor) -> Tensor:
        """(B, T, H)"""
        return self.recurrent(dropout(self.embed(item_BT), self.rate, self.training))[0]
