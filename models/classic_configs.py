"""Sizes of the classic retrievers, with which generative ones are compared. Light, like `models.configs`.

Sizes are those of the papers, or of S3-Rec's and TIGER's comparison on the Amazon data, but RPG's; the loss is a
softmax over the whole catalogue where the model allows, as the published rows with one negative an item are weak.
"""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from models.configs import ModelConfig, check_shares, check_sizes
from sid.errors import require

if TYPE_CHECKING:
    from torch import nn

    from models.attention import Shape
    from models.next_item import Known
    from models.objectives import Objective

LOSSES = ("softmax", "sampled_softmax", "binary", "bpr")


@dataclass
class ClassicConfig(ModelConfig):
    """What every classic retriever's config offers."""

    learns_from: ClassVar[str] = "windows"
    learns: ClassVar[bool] = True
    """Whether there is anything to train."""
    reads_vectors: ClassVar[bool] = False
    """Whether it needs the vectors of the items (the stage embed)."""
    reads_attributes: ClassVar[bool] = False
    """Whether it needs their categories and brands."""
    reads_codes: ClassVar[bool] = False
    """Whether it needs their semantic IDs (the stage tokenize)."""

    @property
    def passes_before(self) -> int:
        """Epochs of pre-training."""
        return 0

    def build(self, known: "Known") -> "nn.Module":
        """A freshly initialised model: `scores(history_BT, user_B) -> (B, N)`, and `window_loss` if it learns."""
        raise NotImplementedError


@dataclass
class PopularityConfig(ClassicConfig):
    learns: ClassVar[bool] = False

    def build(self, known: "Known") -> "nn.Module":
        from models.popularity import Popularity

        return Popularity(known)


@dataclass
class ItemKNNConfig(ClassicConfig):
    revision: ClassVar[int] = 1
    learns: ClassVar[bool] = False
    reads_vectors: ClassVar[bool] = True
    decay: float = 0.8
    """What an item counts beside the one after it."""

    def check(self) -> None:
        require(0 < self.decay <= 1, "model.decay", self.decay, "above 0 and at most 1")

    def build(self, known: "Known") -> "nn.Module":
        from models.item_knn import ItemKNN

        return ItemKNN(known, self.decay)


@dataclass
class NextItemConfig(ClassicConfig):
    """A model with a state behind every item (`models.next_item.NextItem`)."""

    width: int = 64
    dropout: float = 0.5
    """Much, as the data are sparse: at 0.2 most models learn the users by heart."""
    loss: str = "softmax"
    """softmax over the whole catalogue; sampled_softmax; binary or bpr with one other item."""
    negatives: int = 256
    """Items that sampled_softmax draws for every target."""

    def check(self) -> None:
        check_sizes(self, "width", "negatives")
        check_shares(self, "dropout")
        require(self.loss in LOSSES, "model.loss", self.loss, " or ".join(LOSSES))

    @property
    def objective(self) -> "Objective":
        from models.objectives import objective

        return objective(self.loss, self.negatives)


@dataclass
class GRU4RecConfig(NextItemConfig):
    hidden: int = 128
    num_layers: int = 1

    def check(self) -> None:
        super().check()
        check_sizes(self, "hidden", "num_layers")

    def build(self, known: "Known") -> "nn.Module":
        from models.gru4rec import GRU4Rec

        return GRU4Rec(known, self.width, self.hidden, self.num_layers, self.dropout, self.objective)


@dataclass
class CaserConfig(NextItemConfig):
    revision: ClassVar[int] = 1
    length: int = 5
    """Items that a prediction goes by."""
    vertical: int = 4
    horizontal: int = 16
    """Filters: over single dimensions, and over whole items of every height."""

    def check(self) -> None:
        super().check()
        check_sizes(self, "length", "vertical", "horizontal")

    def build(self, known: "Known") -> "nn.Module":
        from models.caser import Caser

        sizes = (self.width, self.length, self.vertical, self.horizontal)
        return Caser(known, *sizes, self.dropout, self.objective)


@dataclass
class HGNConfig(NextItemConfig):
    length: int = 5
    """Items that a prediction goes by."""

    def check(self) -> None:
        super().check()
        check_sizes(self, "length")

    def build(self, known: "Known") -> "nn.Module":
        from models.hgn import HGN

        return HGN(known, self.width, self.length, self.dropout, self.objective)


@dataclass
class AttentionConfig(NextItemConfig):
    """A model with attention over the items."""

    num_layers: int = 2
    num_heads: int = 2

    def check(self) -> None:
        super().check()
        check_sizes(self, "num_layers", "num_heads")
        divides = self.width % self.num_heads == 0
        require(divides, "model.num_heads", self.num_heads, f"a divisor of model.width={self.width}")


@dataclass
class HSTUConfig(AttentionConfig):
    revision: ClassVar[int] = 1
    dropout: float = 0.2

    def build(self, known: "Known") -> "nn.Module":
        from models.hstu import HSTU

        return HSTU(known, self.width, self.num_layers, self.num_heads, self.dropout, self.objective)


@dataclass
class SASRecConfig(AttentionConfig):
    """Sizes of the transformers over items."""

    ff_width: int = 256

    def check(self) -> None:
        super().check()
        check_sizes(self, "ff_width")

    @property
    def shape(self) -> "Shape":
        from models.attention import Shape

        head_width = self.width // self.num_heads
        return Shape(self.width, self.num_layers, self.num_heads, head_width, self.ff_width, self.dropout, t5=False)

    def build(self, known: "Known") -> "nn.Module":
        from models.sasrec import SASRec

        return SASRec(known, self.shape, self.objective)


@dataclass
class FDSAConfig(SASRecConfig):
    reads_attributes: ClassVar[bool] = True

    def build(self, known: "Known") -> "nn.Module":
        from models.fdsa import FDSA

        return FDSA(known, self.shape, self.objective)


@dataclass
class HidingConfig(SASRecConfig):
    """A model that learns from items that training hides."""

    hidden: float = 0.2
    """Their share of a window."""

    def check(self) -> None:
        super().check()
        require(0 < self.hidden < 1, "model.hidden", self.hidden, "above 0 and below 1")


@dataclass
class BERT4RecConfig(HidingConfig):
    revision: ClassVar[int] = 1
    dropout: float = 0.2
    hidden: float = 0.6

    def build(self, known: "Known") -> "nn.Module":
        from models.bert4rec import BERT4Rec

        return BERT4Rec(known, self.shape, self.hidden, self.objective)


@dataclass
class S3RecConfig(HidingConfig):
    reads_attributes: ClassVar[bool] = True
    pretraining_epochs: int = 20

    def check(self) -> None:
        super().check()
        epochs = self.pretraining_epochs
        require(epochs >= 0, "model.pretraining_epochs", epochs, "at least 0")

    @property
    def passes_before(self) -> int:
        return self.pretraining_epochs

    def build(self, known: "Known") -> "nn.Module":
        from models.s3rec import S3Rec

        return S3Rec(known, self.shape, self.hidden, self.objective)


@dataclass
class RPGConfig(ClassicConfig):
    """See `models.rpg`. The paper's network is 448 wide, with 4 heads of 112 and a feed-forward of 1024."""

    reads_codes: ClassVar[bool] = True
    width: int = 192
    num_layers: int = 2
    num_heads: int = 4
    head_width: int = 48
    ff_width: int = 768
    dropout: float = 0.2
    temperature: float = 0.03
    """Of the softmax over a level's codes."""

    def check(self) -> None:
        check_sizes(self, "width", "num_layers", "num_heads", "head_width", "ff_width")
        check_shares(self, "dropout")
        require(0 < self.temperature < math.inf, "model.temperature", self.temperature, "a number above 0")

    def build(self, known: "Known") -> "nn.Module":
        from models.attention import Shape
        from models.rpg import RPG

        sizes = (self.width, self.num_layers, self.num_heads, self.head_width, self.ff_width)
        return RPG(known, Shape(*sizes, self.dropout, t5=False), self.temperature)
