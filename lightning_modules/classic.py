"""Training and ranking of a classic retriever, which scores the whole catalogue at once.

Legend: B users, N items, C items that may be recommended.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from datamodules.batch import SequenceBatch, WindowBatch
from lightning_modules.retriever import RetrieverModule
from sid.decode import Recommendations, top_items


class ClassicModule(RetrieverModule):
    """The model offers `scores(history_BT, user_B) -> (B, N)` and `window_loss(windows)`, with
    `models.next_item.Windows`.

    One that is pre-trained also offers `pretraining_loss(windows)`, of items alone, which is what counts while
    `pretraining` is set, and `end_pretraining()`.
    """

    pretraining = False

    def end_pretraining(self) -> None:
        """From here on the model is trained as any other."""
        self.pretraining = False
        self.model.end_pretraining()

    def batch_loss(self, parts: Sequence[WindowBatch]) -> tuple[Tensor, Tensor]:
        targets = torch.stack([part.target_BT.sum() for part in parts]).sum()
        if self.pretraining:
            return self.model.pretraining_loss([part.item_BT for part in parts]), targets
        return self.model.window_loss([(part.item_BT, part.user_B, part.target_BT) for part in parts]), targets

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
