"""Tokenizers that learn no centres: random hyperplanes, product codes, chance.

Legend: N items, B vectors, D width, L levels.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sid.errors import UserError
from sid.kmeans import faiss_or_error


class Hyperplanes:
    """Locality-sensitive hashing: a level's code is which sides of its random hyperplanes a vector lies on.

    A codebook of 2^h codes takes h hyperplanes through the mean of the fitted vectors (TIGER, section 4.2, has them
    through the origin, where vectors of a text encoder with a common direction lie on one side).
    """

    def __init__(self, vectors_ND: Tensor, codebook_sizes: Sequence[int], seed: int) -> None:
        self.bits = [power_of_two(size, "lsh") for size in codebook_sizes]
        self.mean_D = vectors_ND.mean(0)
        self.index: Any = None
        if sum(self.bits):
            self.index = faiss_or_error().IndexLSH(vectors_ND.shape[1], sum(self.bits), True, False)
            self.index.rrot.init(seed)

    def codes(self, vectors_BD: Tensor) -> Tensor:
        if self.index is None:
            return torch.zeros(len(vectors_BD), len(self.bits), dtype=torch.int64)
        packed = self.index.sa_encode((vectors_BD - self.mean_D).numpy())
        sides_BH = np.unpackbits(packed, axis=1, count=sum(self.bits), bitorder="little").astype(np.int64)
        ends = np.cumsum(self.bits)[:-1]
        weighed = [sides @ (1 << np.arange(sides.shape[1])) for sides in np.split(sides_BH, ends, axis=1)]
        return torch.from_numpy(np.stack(weighed, axis=1))


class Product:
    """Optimised product quantization (Ge et al. 2013; RPG): a rotated vector is cut into L parts, a codebook each.

    The codes have no order: none refines the one before.
    """

    def __init__(self, vectors_ND: Tensor, codebook_sizes: Sequence[int], seed: int) -> None:
        faiss = faiss_or_error()
        num_levels, width = len(codebook_sizes), vectors_ND.shape[1]
        if len(set(codebook_sizes)) > 1:
            raise UserError(f"tokenizer=opq has one size for all codebooks, not {list(codebook_sizes)}")
        if num_levels > width:
            raise UserError(f"tokenizer=opq cuts a vector of {width} numbers into {num_levels} parts: give fewer sizes")
        bits = power_of_two(codebook_sizes[0], "opq")
        if bits == 0:
            raise UserError("tokenizer=opq needs codebooks of at least 2 codes")
        self.rotation = faiss.OPQMatrix(width, num_levels, width // num_levels * num_levels)
        self.quantizer = faiss.ProductQuantizer(self.rotation.d_out, num_levels, bits)
        self.rotation.pq = self.quantizer
        self.quantizer.cp.seed = seed
        self.quantizer.cp.min_points_per_centroid = 1
        self.quantizer.cp.max_points_per_centroid = len(vectors_ND)
        vectors = vectors_ND.numpy()
        self.rotation.train(vectors)
        self.quantizer.train(self.rotation.apply(vectors))

    def codes(self, vectors_BD: Tensor) -> Tensor:
        faiss = faiss_or_error()
        packed = self.quantizer.compute_codes(self.rotation.apply(vectors_BD.numpy()))
        return torch.from_numpy(
            faiss.unpack_bitstrings(packed, self.quantizer.M, self.quantizer.nbits).astype(np.int64)
        )


class Chance:
    """Codes that mean nothing: random hashes of the vector's bits (Dietzfelbinger 1996); equal vectors share them."""

    def __init__(self, width: int, codebook_sizes: Sequence[int], seed: int) -> None:
        self.size_L = np.asarray(codebook_sizes, dtype=np.uint64)
        draws = np.random.default_rng(seed)
        self.factor_DL = draws.integers(2**64, size=(width, len(codebook_sizes)), dtype=np.uint64)

    def codes(self, vectors_BD: Tensor) -> Tensor:
        bits_BD = vectors_BD.contiguous().numpy().view(np.uint32).astype(np.uint64)
        mixed_BL = (bits_BD @ self.factor_DL) >> np.uint64(32)
        return torch.from_numpy((mixed_BL % self.size_L).astype(np.int64))


def power_of_two(size: int, name: str) -> int:
    """The exponent. Raises UserError."""
    if size & (size - 1):
        raise UserError(f"tokenizer={name} needs codebook sizes that are powers of two, not {size}")
    return size.bit_length() - 1
