"""Sizes of the models. Light: a model's module (and torch) is imported when it is built, so a mistake in an override
answers at once."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from sid.errors import require

if TYPE_CHECKING:
    from torch import nn

    from models.tiger import Tiger


@dataclass
class ModelConfig:
    """What every generative retriever's config offers."""

    def build(self, codebook_sizes: tuple[int, ...]) -> "nn.Module":
        """A freshly initialised model with a `tokens: TokenSpace`, `loss`, `begin` and `next_logp`."""
        raise NotImplementedError

    def check(self) -> None:
        """Raise UserError for a value that no model can be built with."""


@dataclass
class TigerConfig(ModelConfig):
    """Sizes of the paper: 4 + 4 layers, width 128, 6 heads of 64, feed-forward 1024, 2,000 user tokens."""

    width: int = 128
    num_layers: int = 4
    num_heads: int = 6
    head_width: int = 64
    ff_width: int = 1024
    dropout: float = 0.1
    num_user_tokens: int = 2000

    def check(self) -> None:
        for name in ("width", "num_layers", "num_heads", "head_width", "ff_width"):
            require(getattr(self, name) >= 1, f"model.{name}", getattr(self, name), "at least 1")
        require(0 <= self.dropout < 1, "model.dropout", self.dropout, "at least 0 and below 1")
        require(self.num_user_tokens >= 0, "model.num_user_tokens", self.num_user_tokens, "at least 0")

    def build(self, codebook_sizes: tuple[int, ...]) -> "Tiger":
        """A freshly initialised TIGER for semantic IDs with these codebooks."""
        from models.tiger import Tiger
        from models.transformer import Shape
        from sid.tokens import TokenSpace

        shape = Shape(self.width, self.num_layers, self.num_heads, self.head_width, self.ff_width, self.dropout)
        return Tiger(shape, TokenSpace(codebook_sizes, self.num_user_tokens))
