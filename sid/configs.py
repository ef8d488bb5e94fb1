"""Sizes of the tokenizers. Light: torch and faiss are imported when a tokenizer is fitted."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

from sid.errors import require

if TYPE_CHECKING:
    from torch import Tensor

    from sid.tokenizers import Context, Tokenizer

SIZES = (256, 256, 256)
IF_SET = {"hashed": "if set"}
"""Metadata of a field that a stage's name leaves out at its default; see `experiments.config`."""


@dataclass
class TokenizerConfig:
    """What every tokenizer's config offers. Whatever the tokenizer, one more level tells items of equal codes apart
    (`reassign` leaves it out where none share their codes)."""

    codebook_sizes: list[int] = field(default_factory=lambda: list(SIZES))
    sample: int = 0
    """Items drawn to fit on; 0: all. Every item gets codes."""
    reassign: bool = field(default=False, metadata=IF_SET)
    """Items that would share their codes get different ones at the last level (`sid.collisions.reassign`)."""
    seed: int = 1

    has_last_level: ClassVar[bool] = False
    """Whether what is fitted is a `LastLevel`, as `reassign` asks for."""
    reads_events: ClassVar[bool] = False
    """Whether `Context.collaborative` is used: the table then depends on the split."""

    def check(self) -> None:
        """Raise UserError for a value that nothing can be fitted with."""
        sizes = self.codebook_sizes
        at_least_1 = bool(sizes) and min(sizes) >= 1
        require(at_least_1, "tokenizer.codebook_sizes", sizes, "one or more sizes, each at least 1")
        require(self.sample >= 0, "tokenizer.sample", self.sample, "at least 0")
        require(0 <= self.seed < 2**31, "tokenizer.seed", self.seed, f"0 to {2**31 - 1}")

    def fit(self, vectors_ND: "Tensor", context: "Context") -> "Tokenizer":
        """A tokenizer fitted to item vectors (N, D) float32. Raises UserError where they cannot be told apart."""
        raise NotImplementedError


@dataclass
class ResidualKMeansConfig(TokenizerConfig):
    """Residual k-means: no network (RQ-k-means)."""

    balanced: bool = False
    """Codes of a level get about as many items each (OneRec)."""

    has_last_level: ClassVar[bool] = True

    def fit(self, vectors_ND: "Tensor", context: "Context") -> "Tokenizer":
        from sid.clusters import residual

        return residual(vectors_ND, self.codebook_sizes, self.seed, self.balanced)


@dataclass
class TreeConfig(TokenizerConfig):
    """Hierarchical k-means: a code's meaning depends on the codes before it."""

    def fit(self, vectors_ND: "Tensor", context: "Context") -> "Tokenizer":
        from sid.clusters import tree

        return tree(vectors_ND, self.codebook_sizes, self.seed)


@dataclass
class HyperplanesConfig(TokenizerConfig):
    """Random hyperplanes: locality-sensitive hashing."""

    def check(self) -> None:
        """Raise UserError for sizes that no hyperplanes have."""
        super().check()
        powers = all(size.bit_count() == 1 for size in self.codebook_sizes)
        require(powers, "tokenizer.codebook_sizes", self.codebook_sizes, "powers of two: a hyperplane gives one bit")

    def fit(self, vectors_ND: "Tensor", context: "Context") -> "Tokenizer":
        from sid.hashes import Hyperplanes

        return Hyperplanes(vectors_ND, self.codebook_sizes, self.seed)


@dataclass
class ProductConfig(TokenizerConfig):
    """Optimised product quantization (RPG: 16 to 64 codes of 256)."""

    codebook_sizes: list[int] = field(default_factory=lambda: [256] * 16)

    has_last_level: ClassVar[bool] = True

    def check(self) -> None:
        """Raise UserError for sizes that no product codes have."""
        super().check()
        first = self.codebook_sizes[0]
        alike = set(self.codebook_sizes) == {first} and first >= 2 and first.bit_count() == 1
        expected = "one size for all codebooks, a power of two and at least 2"
        require(alike, "tokenizer.codebook_sizes", self.codebook_sizes, expected)

    def fit(self, vectors_ND: "Tensor", context: "Context") -> "Tokenizer":
        from sid.hashes import Product

        return Product(vectors_ND, self.codebook_sizes, self.seed)


@dataclass
class ChanceConfig(TokenizerConfig):
    """Random codes, the floor of every comparison."""

    def fit(self, vectors_ND: "Tensor", context: "Context") -> "Tokenizer":
        from sid.hashes import Chance

        return Chance(vectors_ND.shape[1], self.codebook_sizes, self.seed)
