"""How the trained stages are optimised. Light, like `models.configs`."""

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

from sid.configs import IF_SET, TokenizerConfig
from sid.errors import require

if TYPE_CHECKING:
    from torch import Tensor

    from lightning_modules.quantizer import QuantizerModule
    from sid.tokenizers import Context, Tokenizer


@dataclass
class OptimizerConfig:
    """Linear warm-up; the rate is that of the end of the warm-up.

    With T5's unscaled attention and unit-variance embeddings, AdamW starts slowly below 3e-3 (experiments/LOG.md).
    """

    learning_rate: float = 5e-3
    weight_decay: float = 0.05
    warmup_steps: int = 300
    schedule: str = "inverse_sqrt"
    """inverse_sqrt, constant, or cosine over all steps of the run."""
    kind: str = field(default="adamw", metadata=IF_SET)
    """adamw, or adafactor (Shazeer and Stern 2018, arXiv 1804.04235; T5's, and so TIGER's), whose steps are the rate,
    but at most 1 / sqrt(steps so far), times the size of the weights themselves (at least 0.001). A constant 0.01 is
    TIGER's recipe. Decay does not know of that cap, nor do logs of the rate."""

    def check(self) -> None:
        """Raise UserError for a value that no training can start with."""
        _check_rates("optimizer", self.learning_rate, self.weight_decay)
        require(self.warmup_steps >= 0, "optimizer.warmup_steps", self.warmup_steps, "at least 0")
        self.check_names()

    def check_names(self) -> None:
        """Raise UserError for an unknown schedule or kind."""
        schedules, kinds = ("inverse_sqrt", "constant", "cosine"), ("adamw", "adafactor")
        require(self.schedule in schedules, "optimizer.schedule", self.schedule, ", ".join(schedules))
        require(self.kind in kinds, "optimizer.kind", self.kind, " or ".join(kinds))


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
    """With codes."""
    plain_epochs: int = field(default=0, metadata=IF_SET)
    """Epochs of encoder and decoder alone, before k-means sets the codes."""
    look_every: int = 5
    """Epochs between two looks at the codes of all items: usage is logged, and codes without items are moved."""
    revive: bool = field(default=True, metadata=IF_SET)
    """Move codes without items at a look, each onto an item of a crowded code."""
    codebook_ema: float = field(default=0.0, metadata=IF_SET)
    """Decay a batch of the moving averages of what each code wins, which codebooks then follow (van den Oord et al.
    2017, appendix A.1: 0.99); 0: codebooks learn by gradient."""
    gradient: str = field(default="straight_through", metadata=IF_SET)
    """How the decoder's gradient passes the quantizer: straight_through, or rotation (arXiv 2410.06424)."""

    has_last_level: ClassVar[bool] = True

    def check(self) -> None:
        """Raise UserError for a value that no RQ-VAE can be built or trained with."""
        super().check()
        require(all(width >= 1 for width in self.hidden), "tokenizer.hidden", self.hidden, "widths of at least 1")
        for name in ("latent", "batch_size", "epochs", "look_every"):
            require(getattr(self, name) >= 1, f"tokenizer.{name}", getattr(self, name), "at least 1")
        require(self.plain_epochs >= 0, "tokenizer.plain_epochs", self.plain_epochs, "at least 0")
        paid = 0 <= self.commitment < math.inf
        require(paid, "tokenizer.commitment", self.commitment, "a number of at least 0")
        _check_rates("tokenizer", self.learning_rate, self.weight_decay)
        require(0 <= self.codebook_ema < 1, "tokenizer.codebook_ema", self.codebook_ema, "at least 0 and below 1")
        known = ("straight_through", "rotation")
        require(self.gradient in known, "tokenizer.gradient", self.gradient, " or ".join(known))

    def fit(self, vectors_ND: "Tensor", context: "Context") -> "Tokenizer":
        """An RQ-VAE trained on item vectors (N, D)."""
        import torch

        torch.manual_seed(self.seed)
        module = self.module(vectors_ND, context)
        context.train(module, self.plain_epochs + self.epochs)
        return module.model.to(vectors_ND.device)

    def module(self, vectors_ND: "Tensor", context: "Context") -> "QuantizerModule":
        """What is trained, as it starts."""
        from lightning_modules.quantizer import QuantizerModule

        return QuantizerModule(self, vectors_ND)


@dataclass
class VQVAEConfig(RQVAEConfig):
    """A single codebook: nothing but the digit tells items of one code apart."""

    codebook_sizes: list[int] = field(default_factory=lambda: [1024])

    def check(self) -> None:
        """Raise UserError for a value that no VQ-VAE can be built or trained with."""
        super().check()
        single = len(self.codebook_sizes) == 1
        require(single, "tokenizer.codebook_sizes", self.codebook_sizes, "one size: for more, choose tokenizer=rqvae")


@dataclass
class LETTERConfig(RQVAEConfig):
    """An RQ-VAE whose codes also know who chose an item (LETTER, arXiv 2405.07314). Weights as in the paper."""

    alpha: float = 0.02
    """Weight of the alignment of codes with collaborative embeddings (`models.letter.alignment`). The paper's does
    little beside the loss of unit vectors: on Beauty 7.5% of an item's ten nearest by collaborative vector share its
    first code without it, 8.8% at 0.02, 11.8% at 0.2, 16.6% at 1; level 1's perplexity is 235, 230, 138, 128."""
    diversity: float = 1e-4
    """Weight of the codebooks' diversity (`models.letter.diversity`)."""
    temperature: float = 1.0
    """Of both: what their inner products are divided by; the paper has none."""
    groups: int = 10
    """Groups of alike codes, of about equal size, that a level's diversity goes by."""

    reads_events: ClassVar[bool] = True

    def check(self) -> None:
        """Raise UserError for a value that no LETTER can be trained with."""
        super().check()
        for name in ("alpha", "diversity"):
            value = getattr(self, name)
            require(0 <= value < math.inf, f"tokenizer.{name}", value, "a number of at least 0")
        warm = 0 < self.temperature < math.inf
        require(warm, "tokenizer.temperature", self.temperature, "a number above 0")
        require(self.groups >= 1, "tokenizer.groups", self.groups, "at least 1")
        learns = not (self.codebook_ema and self.diversity)
        expected = "0, or tokenizer.diversity=0: codebooks learn diversity by gradient alone"
        require(learns, "tokenizer.codebook_ema", self.codebook_ema, expected)

    def module(self, vectors_ND: "Tensor", context: "Context") -> "QuantizerModule":
        from lightning_modules.letter import LETTERModule

        return LETTERModule(self, vectors_ND, context.collaborative())


def _check_rates(part: str, learning_rate: float, weight_decay: float) -> None:
    positive = learning_rate > 0 and math.isfinite(learning_rate)
    require(positive, f"{part}.learning_rate", learning_rate, "a number above 0")
    require(0 <= weight_decay < math.inf, f"{part}.weight_decay", weight_decay, "a number of at least 0")
