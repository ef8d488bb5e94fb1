"""Training of a generative retriever: optimiser, schedule, loss. The algorithms are in `models` and `sid.decode`.

Legend: B users, K beams.
"""

import math
from typing import Any

import lightning
import torch
from torch import Tensor, nn
from torchmetrics import MeanMetric

from datamodules.batch import SequenceBatch, WindowBatch
from lightning_modules.configs import OptimizerConfig
from lightning_modules.finite import require_finite
from lightning_modules.schedules import cosine, inverse_sqrt
from sid.decode import FirstCodeGiven, Recommendations, beam_search
from sid.errors import UserError
from sid.trie import PrefixTree


def training_loss(model: Any, batch: SequenceBatch | WindowBatch) -> tuple[Tensor, int | Tensor]:
    """The mean loss of a batch's targets, and their number."""
    if isinstance(batch, WindowBatch):
        return model.window_loss(batch.tokens_BS, batch.target_BT), batch.target_BT.sum()
    return model.loss(*batch.inputs, batch.codes_BL), len(batch.codes_BL)


class GenerativeModule(lightning.LightningModule):
    """Token cross-entropy on the targets' codes.

    The model offers `loss(*inputs, codes_BL)`, `begin(*inputs)` and `next_logp` (see `sid.decode.Generator`), and
    `window_loss(tokens_BS, target_BT)` if it learns from windows. The inputs are those of `SequenceBatch.inputs`.
    Every epoch draws its dropout from the seed and its own number, so a resumed run equals an unbroken one.
    """

    def __init__(self, model: nn.Module, optimizer: OptimizerConfig, seed: int) -> None:
        super().__init__()
        if optimizer.schedule not in ("inverse_sqrt", "cosine"):
            raise UserError(f"optimizer.schedule={optimizer.schedule!r}: expected inverse_sqrt or cosine")
        self.model: Any = model
        self.optimizer_config, self.seed = optimizer, seed
        # A NaN makes the mean infinite; by default torchmetrics would leave it out.
        self.train_loss, self.mean_loss = MeanMetric(nan_strategy=math.inf), MeanMetric(nan_strategy=math.inf)

    def on_train_epoch_start(self) -> None:
        torch.manual_seed((self.seed * 1_000_003 + self.current_epoch) * 4099 + self.global_rank)

    def training_step(self, batch: SequenceBatch | WindowBatch) -> Tensor:
        loss, targets = training_loss(self.model, batch)
        self.train_loss.update(loss.detach(), weight=targets)
        self.log("train/loss", self.train_loss, on_step=False, on_epoch=True, prog_bar=True)
        return loss

    def on_train_epoch_end(self) -> None:
        require_finite(self)

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
        """The top `num_beams` items of every user of the batch (see `beam_search`); the oracle tells the model the
        target's first code. `state` is what `begin` has given for this batch, where it is there already."""
        state = self.begin(batch) if state is None else state
        model = FirstCodeGiven(self.model, batch.codes_BL[:, 0]) if oracle_first_code else self.model
        return beam_search(model, state, tree, num_beams, constrained, trace)

    def configure_gradient_clipping(
        self, optimizer: Any, gradient_clip_val: float | None = None, gradient_clip_algorithm: str | None = None
    ) -> None:
        """By norm. Lightning refuses to clip for fused optimisers under autocast, for the sake of fp16's scaler."""
        if gradient_clip_val:
            nn.utils.clip_grad_norm_(self.parameters(), gradient_clip_val)

    def configure_optimizers(self) -> Any:
        config = self.optimizer_config
        matrices = [p for p in self.parameters() if p.ndim >= 2]
        vectors = [p for p in self.parameters() if p.ndim < 2]
        groups = [{"params": matrices, "weight_decay": config.weight_decay}, {"params": vectors, "weight_decay": 0.0}]
        optimizer = torch.optim.AdamW(groups, lr=config.learning_rate, fused=True)
        if config.schedule == "cosine":
            factor = cosine(config.warmup_steps, int(self.trainer.estimated_stepping_batches))
        else:
            factor = inverse_sqrt(config.warmup_steps)
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}
