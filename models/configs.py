"""Sizes of the models. Light: a model's module (and torch) is imported when it is built, so a mistake in an override
answers at once."""

import math
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

from sid.configs import IF_SET
from sid.errors import require

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor, nn

    from models.attention import Shape
    from models.causal import Causal
    from models.copying import Copying
    from models.p5 import P5
    from models.tiger import Tiger
    from sid.tokens import TokenSpace


class Content(NamedTuple):
    """What is known of the items, for models that look at more than the codes of a history.

    Legend: N items, L levels, D vector width.
    """

    codes_NL: "Tensor"
    vectors_ND: "np.ndarray | None" = None
    """May be a mapped file; there for a model that reads them."""
    new_N: "Tensor | None" = None
    """Items that training must know nothing of; None where there are none by intent."""


@dataclass
class ModelConfig:
    """What every retriever's config offers: `GenerativeConfig`, or `models.classic_configs.ClassicConfig`."""

    learns_from: ClassVar[str] = "prefixes"
    """What a training sample is: prefixes (a history and its next item; for random batches of them the model offers
    `prefix_loss`), or windows (all next items of a user at once; the model offers `window_loss`)."""
    revision: ClassVar[int] = 0
    """Raised when a network of the same sizes computes otherwise: what was trained before is not taken for it."""

    def check(self) -> None:
        """Raise UserError for a value that no model can be built with."""


@dataclass
class GenerativeConfig(ModelConfig):
    """What every generative retriever's config offers."""

    @property
    def reads_long(self) -> bool:
        """Whether the model reads the items before the history as well (`SequenceBatch.long_BT`)."""
        return False

    @property
    def reads_content(self) -> bool:
        """Whether the model is built from the content vectors of the items (`Content`)."""
        return self.reads_long

    def build(self, codebook_sizes: tuple[int, ...], max_items: int, content: "Content | None" = None) -> "nn.Module":
        """A freshly initialised model for histories of up to `max_items`, with a `tokens: TokenSpace`, `loss`, `begin`
        and `next_logp`."""
        raise NotImplementedError


@dataclass
class EncoderDecoderConfig(GenerativeConfig):
    """Sizes of TIGER's paper: 4 + 4 layers, width 128, 6 heads of 64, feed-forward 1024, 2,000 user tokens."""

    width: int = 128
    num_layers: int = 4
    num_heads: int = 6
    head_width: int = 64
    ff_width: int = 1024
    dropout: float = 0.1
    num_user_tokens: int = 2000

    def check(self) -> None:
        check_sizes(self, "width", "num_layers", "num_heads", "head_width", "ff_width")
        check_shares(self, "dropout")
        require(self.num_user_tokens >= 0, "model.num_user_tokens", self.num_user_tokens, "at least 0")

    @property
    def shape(self) -> "Shape":
        """The sizes of either stack."""
        from models.attention import Shape

        return Shape(self.width, self.num_layers, self.num_heads, self.head_width, self.ff_width, self.dropout)


@dataclass
class TigerConfig(EncoderDecoderConfig):
    """See `models.tiger`."""

    revision: ClassVar[int] = 1
    copies: bool = field(default=False, metadata=IF_SET)
    """Learn what codes have more for being those of an item of the history (`models.copying`)."""

    def build(self, codebook_sizes: tuple[int, ...], max_items: int, content: Content | None = None) -> "Tiger":
        """A freshly initialised TIGER for semantic IDs with these codebooks."""
        from models.tiger import Tiger
        from sid.tokens import TokenSpace

        tokens = TokenSpace(codebook_sizes, self.num_user_tokens)
        return Tiger(self.shape, tokens, copying=copying(tokens, content) if self.copies else None)


@dataclass
class GlassConfig(TigerConfig):
    """Sizes of the paper: 4 + 4 layers, width 96, 6 heads of 32, feed-forward 1024. See `models.glass`."""

    width: int = 96
    head_width: int = 32
    num_user_tokens: int = 0
    tier: bool = True
    """The SID-Tier token."""
    num_tiers: int = 4
    """Up to five take a byte of memory for every item and first code, four more another one."""
    tier_norm: bool = False
    """Normalise what the token is made from, and the token: learnt much sooner (experiments/LOG.md); the paper does
    not."""
    search: bool = True
    """Retrieval from the long history by first code."""
    retrieved: int = 30
    """Items that the search brings back, the most recent ones."""
    gate: str = "vector"
    """vector (one opening a dimension), scalar, fixed (half and half) or sum (added without a gate)."""
    neighbours: int = 2
    """Similar first codes whose items help out where a code has brought back too few; 0: none."""
    few: int = 1
    """How many items of its own a code needs to do without its neighbours."""

    @property
    def reads_long(self) -> bool:
        return self.tier or self.search

    def check(self) -> None:
        super().check()
        check_sizes(self, "num_tiers", "retrieved")
        require(self.num_tiers <= 255, "model.num_tiers", self.num_tiers, "at most 255")
        gates = ("vector", "scalar", "fixed", "sum")
        require(self.gate in gates, "model.gate", self.gate, ", ".join(gates))
        for name in ("neighbours", "few"):
            require(getattr(self, name) >= 0, f"model.{name}", getattr(self, name), "at least 0")

    def build(self, codebook_sizes: tuple[int, ...], max_items: int, content: Content | None = None) -> "Tiger":
        """A freshly initialised GLASS; without tier and search a TIGER of the same sizes."""
        if not self.reads_long:
            return super().build(codebook_sizes, max_items, content)
        from models.glass import Glass
        from sid.tokens import TokenSpace

        if content is None or content.vectors_ND is None:
            raise ValueError("GLASS needs the codes and vectors of the items")
        tokens = TokenSpace(codebook_sizes, self.num_user_tokens)
        return Glass(
            self.shape,
            tokens,
            content.codes_NL,
            content.vectors_ND,
            tiers=self.num_tiers if self.tier else 0,
            tier_norm=self.tier_norm,
            most=self.retrieved if self.search else 0,
            gate=self.gate,
            neighbours=self.neighbours,
            few=self.few,
            copying=copying(tokens, content) if self.copies else None,
        )


@dataclass
class CausalConfig(GenerativeConfig):
    """A decoder-only retriever: see `models.causal`. Chosen on Beauty's validation users (experiments/LOG.md)."""

    learns_from: ClassVar[str] = "windows"
    form: str = "item"
    """flat: one stack over all codes; item: a trunk over items and a depth decoder over the codes of the next one."""
    width: int = 192
    num_layers: int = 2
    depth_layers: int = 2
    """Layers of the depth decoder; the flat form has none."""
    num_heads: int = 6
    head_width: int = 32
    ff_width: int = 768
    dropout: float = 0.2
    depth_dropout: float = 0.1
    """In the depth decoder, which has to learn the catalogue by heart."""
    item_dropout: float = 0.0
    """Share of history items that training hides from the later ones. In the flat form they leave the attention; in the
    item form an empty place stays."""
    label_smoothing: float = 0.0
    tied: bool = False
    """Output weights are the code embeddings."""
    num_user_tokens: int = 0
    copies: bool = field(default=False, metadata=IF_SET)
    """Learn what codes have more for being those of an item of the history (`models.copying`), also of one that
    `item_dropout` hides."""

    def check(self) -> None:
        require(self.form in ("item", "flat"), "model.form", self.form, "item or flat")
        check_sizes(self, "width", "num_layers", "depth_layers", "num_heads", "head_width", "ff_width")
        check_shares(self, "dropout", "depth_dropout", "item_dropout", "label_smoothing")
        require(self.num_user_tokens >= 0, "model.num_user_tokens", self.num_user_tokens, "at least 0")

    def build(self, codebook_sizes: tuple[int, ...], max_items: int, content: Content | None = None) -> "Causal":
        """A freshly initialised model of the chosen form."""
        from models.causal import FlatCausal, ItemCausal

        parts = self.parts(codebook_sizes, max_items, content)
        if self.form == "item":
            return ItemCausal(**parts)
        del parts["depth"]
        return FlatCausal(parts.pop("trunk"), **parts)

    def parts(self, codebook_sizes: tuple[int, ...], max_items: int, content: Content | None) -> dict[str, Any]:
        """What `ItemCausal` is built from."""
        from models.attention import Shape
        from sid.tokens import TokenSpace

        trunk = Shape(self.width, self.num_layers, self.num_heads, self.head_width, self.ff_width, self.dropout)
        depth = replace(trunk, num_layers=self.depth_layers, dropout=self.depth_dropout)
        tokens = TokenSpace(codebook_sizes, self.num_user_tokens)
        return {
            "trunk": trunk,
            "depth": depth,
            "tokens": tokens,
            "max_items": max_items,
            "tied": self.tied,
            "item_dropout": self.item_dropout,
            "smoothing": self.label_smoothing,
            "copying": copying(tokens, content) if self.copies else None,
        }


@dataclass
class SidlightConfig(CausalConfig):
    """The item form, fused with items of their own: see `models.sidlight`."""

    item_loss: float = 0.5
    """Weight of the loss over whole items beside that of the codes."""
    temperature: float = 0.07
    """Of the cosines of that loss."""
    judge: float = 4.0
    """Weight of whole items beside the log-likelihood of the codes in the score of a beam; 0: codes alone."""
    repeats: bool = field(default=False, metadata=IF_SET)
    """Learn how much likelier, or less likely, an item is for being in the history already."""
    alike: int = field(default=0, metadata=IF_SET)
    """Learn how much likelier an item is for being one of so many that are like an item of the history in content,
    which is read with equal variance in every direction then."""

    @property
    def reads_content(self) -> bool:
        return True

    def check(self) -> None:
        super().check()
        require(self.form == "item", "model.form", self.form, "item")
        for name in ("item_loss", "judge"):
            value = getattr(self, name)
            require(0 <= value < math.inf, f"model.{name}", value, "a number of at least 0")
        require(self.alike >= 0, "model.alike", self.alike, "at least 0")
        taught = self.item_loss > 0 or not self.alike
        require(taught, "model.alike", self.alike, "0 with model.item_loss=0: nothing teaches what they are worth")
        learnt = self.item_loss > 0 or not self.judge
        require(learnt, "model.judge", self.judge, "0 with model.item_loss=0: nothing teaches it what whole items are")
        require(0 < self.temperature < math.inf, "model.temperature", self.temperature, "a number above 0")

    def build(self, codebook_sizes: tuple[int, ...], max_items: int, content: Content | None = None) -> "Causal":
        from models.sidlight import Sidlight

        if content is None or content.vectors_ND is None:
            raise ValueError("Sidlight needs the codes and vectors of the items")
        own: dict[str, Any] = {
            "content": content,
            "item_loss": self.item_loss,
            "temperature": self.temperature,
            "judge": self.judge,
            "repeats": self.repeats,
            "alike": self.alike,
        }
        return Sidlight(**self.parts(codebook_sizes, max_items, content), **own)


@dataclass
class P5Config(EncoderDecoderConfig):
    """A T5 that reads prompts; see `models.p5`. P5 itself starts from t5-small."""

    revision: ClassVar[int] = 2
    weights: str = ""
    """Folder or hub name of a T5 of the same sizes whose layers to start from; "": random ones."""

    def build(self, codebook_sizes: tuple[int, ...], max_items: int, content: Content | None = None) -> "P5":
        """A freshly initialised P5."""
        from models.p5 import P5
        from sid.tokens import TokenSpace

        return P5(self.shape, TokenSpace(codebook_sizes, self.num_user_tokens), max_items, self.weights)


def copying(tokens: "TokenSpace", content: Content | None) -> "Copying":
    """What a model that copies learns, of the items that training may know of."""
    from models.copying import Copying

    if content is None:
        raise ValueError("a model that copies needs the codes of all items")
    return Copying(tokens, content.codes_NL, content.new_N)


def check_sizes(config: ModelConfig, *names: str) -> None:
    """Raise UserError where one of these is below 1."""
    for name in names:
        require(getattr(config, name) >= 1, f"model.{name}", getattr(config, name), "at least 1")


def check_shares(config: ModelConfig, *names: str) -> None:
    """Raise UserError where one of these is not in [0, 1)."""
    for name in names:
        require(0 <= getattr(config, name) < 1, f"model.{name}", getattr(config, name), "at least 0 and below 1")
