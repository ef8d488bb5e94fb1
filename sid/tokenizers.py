"""What every tokenizer is: fitted to item vectors, it gives a vector its codes.

Legend: N items, B vectors, D width, L levels, C collaborative width.
"""

from collections.abc import Callable, Sized
from dataclasses import dataclass
from typing import Protocol, Self, runtime_checkable

import numpy as np
import torch
from torch import Tensor, nn

from sid.collisions import reassign
from sid.errors import UserError
from sid.kmeans import require_enough

CHUNK = 65_536
"""Vectors that are assigned at once."""


class Tokenizer(Protocol):
    """A fitted tokenizer."""

    def codes(self, vectors_BD: Tensor) -> Tensor:
        """(B, L) int64, before collisions are resolved; a vector's codes do not depend on the others."""


@runtime_checkable
class LastLevel(Tokenizer, Protocol):
    """A fitted tokenizer that knows how well every code of its last level fits a vector."""

    def last_distances(self, vectors_BD: Tensor, codes_BL: Tensor) -> Tensor:
        """(B, K) squared distances of the last level's codes to what the codes before leave over."""


@runtime_checkable
class Movable(Tokenizer, Protocol):
    """A fitted tokenizer whose codes can be made on another device than the CPU."""

    def to(self, device: torch.device | str) -> Self:
        """The tokenizer there; a module moves itself."""


@dataclass(frozen=True)
class Context:
    """What a tokenizer may use beside the item vectors it is fitted to."""

    train: Callable[[nn.Module, int], None]
    """Trains a LightningModule for a number of epochs, or goes on where a killed run stopped."""
    collaborative: Callable[[], Tensor]
    """(N, C) float32: which items the same users chose, from the events of the training part alone."""


def require_vectors(vectors_ND: Tensor, codebook_sizes: list[int], sampled: bool = False) -> None:
    """Raises UserError for vectors that no codebook of these sizes can be fitted to; `sampled`: they are a sample."""
    require_enough(len(vectors_ND), max(codebook_sizes), sampled)
    bad_N = ~vectors_ND.isfinite().all(dim=1)
    if bad_N.any():
        raise UserError(
            f"{int(bad_N.sum())} item vectors hold NaN or infinity, first: row {int(bad_N.int().argmax())}; "
            "look at what embed.encoder gives"
        )
    if len(vectors_ND) > 1 and bool((vectors_ND == vectors_ND[0]).all()):
        raise UserError(
            f"all {len(vectors_ND)} item vectors are equal: nothing tells the items apart; change embed.fields"
        )


def assign(tokenizer: Tokenizer, vectors_ND: np.ndarray, device: torch.device | str = "cpu") -> Tensor:
    """(N, L) int64 codes of a table of vectors, which may be a mapped file, a chunk at a time; on the device where the
    tokenizer can be moved there, and it stays there."""
    if isinstance(tokenizer, Movable):
        tokenizer = tokenizer.to(device)
    else:
        device = "cpu"
    codes_NL = torch.empty(len(vectors_ND), 0, dtype=torch.int64)
    for start in range(0, len(vectors_ND), CHUNK):
        chunk_BD = np.array(vectors_ND[start : start + CHUNK], dtype=np.float32)
        codes_BL = tokenizer.codes(torch.from_numpy(chunk_BD).to(device))
        if start == 0:
            codes_NL = codes_NL.new_empty(len(vectors_ND), codes_BL.shape[1])
        codes_NL[start : start + CHUNK] = codes_BL.cpu()
    return codes_NL


def assign_apart(tokenizer: LastLevel, vectors_ND: np.ndarray) -> Tensor:
    """`assign`, after which items that share their codes are told apart at the last level, as far as they can be."""
    codes_NL = assign(tokenizer, vectors_ND)

    def distances(rows_B: Tensor) -> Tensor:
        vectors_BD = torch.from_numpy(np.array(vectors_ND[rows_B.numpy()], dtype=np.float32))
        return tokenizer.last_distances(vectors_BD, codes_NL[rows_B])

    return reassign(codes_NL, distances)


def drawn(rows: Sized, sample: int, seed: int) -> np.ndarray:
    """Places of a sample of the rows, in their order; all of them where `sample` is 0 or not below their number."""
    num_rows = len(rows)
    if sample == 0 or sample >= num_rows:
        return np.arange(num_rows)
    return np.sort(np.random.default_rng(seed).choice(num_rows, sample, replace=False))
