"""k-means by faiss, and residual k-means on top of it.

Legend: B vectors, N items, K centres, D width, L levels.
"""

from collections.abc import Sequence
from types import ModuleType

import torch
from torch import Tensor

from sid.errors import UserError


def faiss_or_error() -> ModuleType:
    """faiss. Raises UserError where it is missing."""
    try:
        import faiss
    except ImportError as error:
        raise UserError("faiss is missing; install an extra: pip install -e '.[cpu]' or '.[gpu]'") from error
    return faiss


def require_enough(num_vectors: int, num_codes: int, sampled: bool = False) -> None:
    """Raises UserError for fewer vectors than codes; `sampled`: the vectors are those of a sample."""
    if num_vectors < num_codes:
        found = f"tokenizer.sample={num_vectors} draws fewer; raise it or" if sampled else f"there are {num_vectors};"
        raise UserError(f"a codebook of {num_codes} codes needs as many items, {found} lower tokenizer.codebook_sizes")


def kmeans(vectors_ND: Tensor, num_centres: int, seed: int, iterations: int = 20) -> Tensor:
    """(K, D) centres of all N vectors (no subsampling). Deterministic for a seed and a number of threads.

    Raises UserError when there are fewer vectors than centres, or faiss is missing.
    """
    require_enough(len(vectors_ND), num_centres)
    search = faiss_or_error().Kmeans(
        vectors_ND.shape[1],
        num_centres,
        niter=iterations,
        seed=seed % 2**31,
        min_points_per_centroid=1,
        max_points_per_centroid=len(vectors_ND),
    )
    search.train(vectors_ND.detach().float().cpu().contiguous().numpy())
    return torch.tensor(search.centroids).to(vectors_ND)


def nearest(vectors_BD: Tensor, centres_KD: Tensor, prices_K: Tensor | None = None) -> Tensor:
    """(B,) index of the nearest centre by squared distance plus the centre's price; the lowest index among equals."""
    own_K = centres_KD.square().sum(1)
    own_K = own_K if prices_K is None else own_K + prices_K
    return (own_K - 2 * vectors_BD @ centres_KD.T).argmin(1)


def residual_kmeans(vectors_ND: Tensor, codebook_sizes: Sequence[int], seed: int) -> tuple[Tensor, list[Tensor]]:
    """Codes (N, L) and centres (K_l, D) of every level: k-means on what the levels before leave over (RQ-k-means)."""
    residual_ND, codes, levels = vectors_ND, [], []
    for level, size in enumerate(codebook_sizes):
        levels.append(kmeans(residual_ND, size, seed + level))
        codes.append(nearest(residual_ND, levels[-1]))
        residual_ND = residual_ND - levels[-1][codes[-1]]
    return torch.stack(codes, dim=1), levels


def last_distances(vectors_BD: Tensor, codes_BL: Tensor, levels: Sequence[Tensor]) -> Tensor:
    """(B, K) squared distances of the last level's centres to what the codes before leave over."""
    *before, last_KD = levels
    for level, centres_KD in enumerate(before):
        vectors_BD = vectors_BD - centres_KD[codes_BL[:, level]]
    return torch.cdist(vectors_BD, last_KD).square()
