"""Tokenizers whose levels do not refine one another: random hyperplanes, product codes, chance.

Legend: N items, B vectors, D width, L levels, H hyperplanes, E width after a rotation.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sid.errors import require
from sid.kmeans import faiss_or_error


class Hyperplanes:
    """Locality-sensitive hashing: a level's code is which sides of its random hyperplanes a vector lies on.

    A codebook of 2^h codes takes h hyperplanes through the mean of the fitted vectors (TIGER, section 4.2, has them
    through the origin, where vectors of a text encoder with a common direction lie on one side).
    """

    def __init__(self, vectors_ND: Tensor, codebook_sizes: Sequence[int], seed: int) -> None:
        self.bits = bits_of(codebook_sizes)
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

    The codes have no order: none refines the one before. Rotation and codebooks are fitted in turns, from
    `balanced_axes` on. On the vectors of Beauty, 16 codes of 256, faiss.OPQMatrix leaves more error after its 50 rounds
    (0.205, from a random rotation) than this does before its first (0.202) and after its last (0.193).
    """

    def __init__(self, vectors_ND: Tensor, codebook_sizes: Sequence[int], seed: int, rounds: int = 10) -> None:
        faiss = faiss_or_error()
        num_levels, width = len(codebook_sizes), vectors_ND.shape[1]
        expected = f"at most {width} of them, as many as a vector has numbers"
        require(num_levels <= width, "tokenizer.codebook_sizes", list(codebook_sizes), expected)
        bits = bits_of(codebook_sizes)[0]
        self.mean_D = vectors_ND.mean(0)
        centred_ND = vectors_ND - self.mean_D
        self.rotation_DE = balanced_axes(centred_ND, num_levels)
        self.quantizer = faiss.ProductQuantizer(self.rotation_DE.shape[1], num_levels, bits)
        clustering = self.quantizer.cp
        clustering.seed, clustering.niter = seed, 10
        clustering.min_points_per_centroid, clustering.max_points_per_centroid = 1, len(vectors_ND)
        for _ in range(rounds):
            rotated = (centred_ND @ self.rotation_DE).numpy()
            self.quantizer.train(rotated)
            self.quantizer.train_type, clustering.niter = faiss.ProductQuantizer.Train_hot_start, 2
            decoded_NE = torch.from_numpy(self.quantizer.decode(self.quantizer.compute_codes(rotated)))
            left_DE, _, right_EE = torch.linalg.svd(centred_ND.T @ decoded_NE, full_matrices=False)
            self.rotation_DE = left_DE @ right_EE
        clustering.niter = 10
        self.quantizer.train((centred_ND @ self.rotation_DE).numpy())

    def codes(self, vectors_BD: Tensor) -> Tensor:
        packed = self.quantizer.compute_codes(((vectors_BD - self.mean_D) @ self.rotation_DE).numpy())
        unpacked = faiss_or_error().unpack_bitstrings(packed, self.quantizer.M, self.quantizer.nbits)
        return torch.from_numpy(unpacked.astype(np.int64))

    def last_distances(self, vectors_BD: Tensor, codes_BL: Tensor) -> Tensor:
        """(B, K) squared distances of the last codebook's centres to the last part of the rotated vectors."""
        centres = faiss_or_error().vector_to_array(self.quantizer.centroids)
        last_KE = torch.from_numpy(centres).view(self.quantizer.M, self.quantizer.ksub, self.quantizer.dsub)[-1]
        part_BE = (vectors_BD - self.mean_D) @ self.rotation_DE[:, -self.quantizer.dsub :]
        return torch.cdist(part_BE, last_KE).square()


def balanced_axes(centred_ND: Tensor, num_parts: int) -> Tensor:
    """(D, E) principal axes, dealt to parts of equal width so that the products of their variances are about equal.

    The strongest axis comes first, to the part with the least product that has room (Ge et al. 2013, section 3.2).
    """
    variance_D, axis_DD = torch.linalg.eigh(centred_ND.T @ centred_ND)
    share_D = (variance_D / variance_D[-1]).clamp_min(1e-6)
    weights, width = (share_D / share_D.min()).log().tolist(), len(variance_D) // num_parts
    parts: list[list[int]] = [[] for _ in range(num_parts)]
    for axis in reversed(range(len(weights) - width * num_parts, len(weights))):
        roomy = [part for part in parts if len(part) < width]
        min(roomy, key=lambda part: sum(weights[one] for one in part)).append(axis)
    return axis_DD[:, [axis for part in parts for axis in part]]


class Chance:
    """Codes that mean nothing: random hashes of the vector's bits (Dietzfelbinger 1996); equal vectors share them."""

    def __init__(self, width: int, codebook_sizes: Sequence[int], seed: int) -> None:
        self.size_L = np.asarray(codebook_sizes, dtype=np.uint64)
        draws = np.random.default_rng(seed)
        self.factor_DL = draws.integers(2**64, size=(width, len(codebook_sizes)), dtype=np.uint64)

    def codes(self, vectors_BD: Tensor) -> Tensor:
        bits_BD = (vectors_BD + 0.0).contiguous().numpy().view(np.uint32).astype(np.uint64)
        mixed_BL = (bits_BD @ self.factor_DL) >> np.uint64(32)
        return torch.from_numpy((mixed_BL % self.size_L).astype(np.int64))


def bits_of(codebook_sizes: Sequence[int]) -> list[int]:
    """Exponents of sizes that are powers of two."""
    assert all(size.bit_count() == 1 for size in codebook_sizes), codebook_sizes
    return [size.bit_length() - 1 for size in codebook_sizes]
