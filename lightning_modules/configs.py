"""How the trained stages are optimised. Light, like `models.configs`."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

    from lightning_modules.quantizer import QuantizerModule


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


@dataclass
class RQVAEConfig:
    """Sizes and training of an RQ-VAE. Sizes and beta as in the paper; AdamW instead of 20k epochs of Adagrad."""

    codebook_sizes: list[int] = field(default_factory=lambda: [256, 256, 256])
    hidden: list[int] = field(default_factory=lambda: [512, 256, 128])
    latent: int = 32
    commitment: float = 0.25
    learning_rate: float = 1e-3
    weight_decay: float = 1e-4
    batch_size: int = 1024
    epochs: int = 100
    look_every: int = 5
    """Epochs between two looks at the codes of all items: usage is logged, and codes without items are moved."""
    seed: int = 1

    def build(self, vectors_ND: "Tensor") -> "QuantizerModule":
        """A freshly initialised RQ-VAE for these item vectors (N, D)."""
        import torch

        from lightning_modules.quantizer import QuantizerModule

        torch.manual_seed(self.seed)
        return QuantizerModule(self, vectors_ND)
