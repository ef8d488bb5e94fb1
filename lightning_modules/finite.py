"""A training that has diverged is a mistake to be told, not a result."""

import lightning
import torch

from sid.errors import UserError


def require_finite(module: lightning.LightningModule) -> None:
    """Raises UserError when the mean training loss of this epoch is not a finite number."""
    loss = module.trainer.callback_metrics["train/loss"]
    if not torch.isfinite(loss):
        raise UserError(f"the loss of epoch {module.current_epoch + 1} is {loss:g}; lower the learning_rate")
