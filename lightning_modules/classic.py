"""Training and ranking of a classic retriever, which scores the whole catalogue at once.

Legend: B users, N items, C items that may be recommended, K ranks.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from datamodules.batch import SequenceBatch, WindowBatch
from lightning_modules.retriever import RetrieverModule
from sid.decode import Recommendations


class ClassicModule(RetrieverModule):
    """The model offers `scores(history_BT, user_B) -> (B, N)` and `window_loss(item_BT, user_B, target_BT)`.

    One that is pre-trained also offers `pretraining_loss(item_BT)`, which is what counts while `pretraining` is set,
    and `end_pretraining()`.
    """

    pretraining = False

    def end_pretraining(self) -> None:
        """From here on the model is trained as any other."""
        self.pretraining = False
        self.model.end_pretraining()

    def batch_loss(self, batch: WindowBatch) -> tuple[Tensor, int | Tensor]:
        targets = batch.target_BT.sum()
        if self.pretraining:
            return self.model.pretraining_loss(batch.item_BT), targets
        return self.model.window_loss(batch.item_BT, batch.user_B, batch.target_BT), targets

    def validation_step(self, batch: SequenceBatch) -> None:
        """Nothing: what counts is in the callback `Retrieval`."""

    def test_step(self, batch: SequenceBatch) -> None:
        """As in validation."""

    def begin(self, batch: SequenceBatch) -> Tensor:
        """(B, N) scores of all items."""
        return self.model.scores(batch.history_BT, batch.user_B)

    def recommend(
        self, batch: SequenceBatch, items_C: Tensor, num_items: int, *_: Any, state: Tensor | None = None
    ) -> Recommendations:
        """The `num_items` best of the items (C,) for every user. What else a beam search is asked for does not concern
        one matrix product. `state` is what `begin` has given for this batch, where it is there already."""
        scores_BN = self.begin(batch) if state is None else state
        return top_items(scores_BN, items_C, num_items)


def top_items(scores_BN: Tensor, items_C: Tensor, num_items: int) -> Recommendations:
    """The best of the items (C,), best first; -1 where there are no more, or the score is -inf."""
    among_BC = scores_BN if len(items_C) == scores_BN.shape[1] else scores_BN[:, items_C]
    scores_BK, place_BK = among_BC.topk(min(num_items, len(items_C)), dim=1)
    items_BK = items_C[place_BK].masked_fill(scores_BK == -torch.inf, -1)
    missing = num_items - items_BK.shape[1]
    return Recommendations(
        F.pad(items_BK, (0, missing), value=-1), F.pad(scores_BK, (0, missing), value=-torch.inf), None
    )
