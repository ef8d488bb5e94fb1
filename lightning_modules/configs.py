"""How the trained stages are optimised. Light, like `models.configs`."""

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from sid.configs import TokenizerConfig
from sid.errors import require

if TYPE_CHECKING:
    from torch import Tensor

    from sid.tokenizers import Context, Tokenizer


@dataclass
class OptimizerConfig:
    """AdamW with linear warm-up; the rate is that of the end of the warm-up.

    With T5's unscaled attention and unit-variance embeddings, rates below 3e-3 start slowly (experiments/LOG.md).
    """

    learning_rate: float = 5e-3
    weight_decay: float = 0.05
    warmup_steps: int = 300
    schedule: str = "inverse_sqrt"
    """inverse_sqrt, or cosine over all steps of the run."""

    def check(self) -> None:
        """Raise UserError for a value that no training can start with."""
        _check_rates("optimizer", self.learning_rate, self.weight_decay)
        require(self.warmup_steps >= 0, "optimizer.warmup_steps", self.warmup_steps, "at least 0")
        known = ("inverse_sqrt", "cosine")
        require(self.schedule in known, "optimizer.schedule", self.schedule, " or ".join(known))


@dataclass
class RQVAEConfig(TokenizerConfig):
    """Sizes and training of an RQ-VAE. Sizes and beta as in the paper; AdamW instead of 20k epochs of Adagrad."""

    hidden: list[int] = field(default_factory=lambda: [512, 256, 128])
    latent: int = 32
    commitment: float = 0.25
    learning_rate: float = 1e-3
    weight_decay: float = 1e-4
    batch_size: int = 1024
    epochs: int = 100
    look_every: int = 5
    """Epochs between two looks at the codes of all items: usage is logged, and codes without items are moved."""

    def check(self) -> None:
        """Raise UserError for a value that no RQ-VAE can be built or trained with."""
        super().check()
        require(all(width >= 1 for width in self.hidden), "tokenizer.hidden", self.hidden, "widths of at least 1")
        for name in ("latent", "batch_size", "epochs", "look_every"):
            require(getattr(self, name) >= 1, f"tokenizer.{name}", getattr(self, name), "at least 1")
        _check_rates("tokenizer", self.learning_rate, self.weight_decay)

    def fit(self, vectors_ND: "Tensor", context: "Context") -> "Tokenizer":
        """An RQ-VAE trained on item vectors (N, D)."""
        import torch

        from lightning_modules.quantizer import QuantizerModule

        torch.manual_seed(self.seed)
        module = QuantizerModule(self, vectors_ND)
        context.train(module, self.epochs)
        return module.model.to(vectors_ND.device)


@dataclass
class VQVAEConfig(RQVAEConfig):
    """A single codebook: nothing but the digit tells items of one code apart."""

    codebook_sizes: list[int] = field(default_factory=lambda: [1024])


def _check_rates(part: str, learning_rate: float, weight_decay: float) -> None:
    positive = learning_rate > 0 and math.isfinite(learning_rate)
    require(positive, f"{part}.learning_rate", learning_rate, "a number above 0")
    require(0 <= weight_decay < math.inf, f"{part}.weight_decay", weight_decay, "a number of at least 0")
