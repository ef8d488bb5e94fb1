"""Training and decoding of a generative retriever. The algorithms are in `models` and `sid.decode`.

Legend: B users, K beams.
"""

import math
from typing import Any

import torch
from torch import Tensor, nn
from torchmetrics import MeanMetric

from datamodules.batch import Parts, SequenceBatch, WindowBatch
from lightning_modules.configs import OptimizerConfig
from lightning_modules.retriever import RetrieverModule
from sid.decode import FirstCodeGiven, Recommendations, beam_search, recommended
from sid.trie import FreeTree, PrefixTree


def training_loss(model: Any, parts: Parts) -> tuple[Tensor, int | Tensor]:
    """The mean loss of the targets of a batch, and their number."""
    if windows := [part for part in parts if isinstance(part, WindowBatch)]:
        loss = model.window_loss([(part.tokens_BS, part.target_BT) for part in windows])
        return loss, torch.stack([part.target_BT.sum() for part in windows]).sum()
    prefixes = [(*part.inputs, part.codes_BL) for part in parts if isinstance(part, SequenceBatch)]
    loss = model.loss(*prefixes[0]) if len(prefixes) == 1 else model.prefix_loss(prefixes)
    return loss, sum(len(codes_BL) for *_, codes_BL in prefixes)


class GenerativeModule(RetrieverModule):
    """Token cross-entropy on the targets' codes.

    The model offers `loss(*inputs, codes_BL)`, `begin(*inputs)` and `next_logp` (see `sid.decode.Generator`), and
    `window_loss(windows)`, with `models.causal.Windows`, if it learns from windows, or `prefix_loss(prefixes)`, with
    the arguments of `loss` part by part, if it learns from random batches of prefixes. The inputs are those of
    `SequenceBatch.inputs`.
    """

    def __init__(self, model: nn.Module, optimizer: OptimizerConfig, seed: int) -> None:
        super().__init__(model, optimizer, seed)
        self.mean_loss = MeanMetric(nan_strategy=math.inf)

    def batch_loss(self, parts: Parts) -> tuple[Tensor, int | Tensor]:
        return training_loss(self.model, parts)

    def validation_step(self, batch: SequenceBatch) -> Any:
        return self._measure("val/loss", batch)

    def test_step(self, batch: SequenceBatch) -> Any:
        return self._measure("test/loss", batch)

    def _measure(self, name: str, batch: SequenceBatch) -> Any:
        """Logs the loss; returns what a model that can be looked into shows (`models.inside.Inside`)."""
        looks = hasattr(self.model, "look_inside")
        inside = self.model.look_inside(*batch.inputs, batch.codes_BL) if looks else None
        loss = self.model.loss(*batch.inputs, batch.codes_BL) if inside is None else inside.loss
        self.mean_loss.update(loss, weight=len(batch.codes_BL))
        self.log(name, self.mean_loss, on_step=False, on_epoch=True, prog_bar=True)
        return inside

    def begin(self, batch: SequenceBatch) -> Any:
        """The model's state after it has read the histories; a beam search leaves it as it is."""
        return self.model.begin(*batch.inputs)

    def recommend(
        self,
        batch: SequenceBatch,
        tree: PrefixTree,
        num_beams: int,
        constrained: bool = False,
        oracle_first_code: bool = False,
        trace: list[Tensor] | None = None,
        state: Any = None,
    ) -> Recommendations:
        """The top `num_beams` items of every user of the batch (see `recommended`; in a free tree, where not all codes
        are items, `beam_search`); the oracle tells the model the target's first code. `state` is what `begin` has given
        for this batch, where it is there already."""
        state = self.begin(batch) if state is None else state
        model = FirstCodeGiven(self.model, batch.codes_BL[:, 0]) if oracle_first_code else self.model
        search = beam_search if isinstance(tree, FreeTree) else recommended
        return search(model, state, tree, num_beams, constrained, trace)
