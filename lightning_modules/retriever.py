"""Training of any retriever: optimiser, schedule, seeds, clipping. What a batch costs is the subclass's."""

import math
from functools import partial
from typing import Any

import lightning
import torch
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule, fully_shard, register_fsdp_forward_method
from torchmetrics import MeanMetric

from lightning_modules.configs import OptimizerConfig
from lightning_modules.finite import require_finite
from lightning_modules.optimizers import build_optimizer, build_schedule

ENTRANCES = (
    *("loss", "prefix_loss", "window_loss", "pretraining_loss"),
    *("begin", "next_logp", "worth", "look_inside", "scores"),
)
"""What is called of a model from outside; each where a model has it."""


class RetrieverModule(lightning.LightningModule):
    """Every epoch draws its dropout from the seed and its own number, so a resumed run equals an unbroken one."""

    def __init__(self, model: nn.Module, optimizer: OptimizerConfig, seed: int) -> None:
        super().__init__()
        optimizer.check_names()
        self.model: Any = model
        self.optimizer_config, self.seed = optimizer, seed
        # A NaN makes the mean infinite; by default torchmetrics would leave it out.
        self.train_loss = MeanMetric(nan_strategy=math.inf)

    def batch_loss(self, parts: Any) -> tuple[Tensor, int | Tensor]:
        """The mean loss of the targets of a batch, which comes in parts of like length, and their number."""
        raise NotImplementedError

    def configure_model(self) -> None:
        """Under FSDP the processes of a machine share out the optimiser's state and, between steps, the gradients;
        other machines have a copy (the mesh is of machines x processes).

        The model is one group, whole while it is at work: layers of their own would gather weights in every step of a
        beam search, and processes do not always take the same steps there.
        """
        if self.device_mesh is None or isinstance(self.model, FSDPModule):
            return
        fully_shard(self.model, mesh=self.device_mesh)
        for name in filter(partial(hasattr, self.model), ENTRANCES):
            register_fsdp_forward_method(self.model, name)

    def on_train_epoch_start(self) -> None:
        torch.manual_seed((self.seed * 1_000_003 + self.current_epoch) * 4099 + self.global_rank)

    def training_step(self, batch: Any) -> Tensor:
        loss, targets = self.batch_loss(batch)
        self.train_loss.update(loss.detach(), weight=targets)
        self.log("train/loss", self.train_loss, on_step=False, on_epoch=True, prog_bar=True)
        return loss

    def on_train_epoch_end(self) -> None:
        require_finite(self)

    def configure_gradient_clipping(
        self, optimizer: Any, gradient_clip_val: float | None = None, gradient_clip_algorithm: str | None = None
    ) -> None:
        """By norm. Lightning refuses to clip for fused optimisers under autocast, for the sake of fp16's scaler."""
        if gradient_clip_val:
            nn.utils.clip_grad_norm_(self.parameters(), gradient_clip_val)

    def configure_optimizers(self) -> Any:
        optimizer = build_optimizer(self.optimizer_config, self.parameters())
        factor = build_schedule(self.optimizer_config, lambda: int(self.trainer.estimated_stepping_batches))
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}
