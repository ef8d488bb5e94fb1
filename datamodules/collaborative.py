"""Item vectors from who chose what, where items of the same users, or chosen one soon after the other, are alike.

`collaborative` is what LETTER draws its codes to, `cooccurrence` what `embed.collaborative` appends to the content.

Array names end in their shape: U users, N items, M events, P pairs of a user and an item, E pairs of items, C width.
"""

import numpy as np
import torch
from scipy.sparse import csr_matrix
from sklearn.utils.extmath import randomized_svd
from threadpoolctl import threadpool_limits

from datamodules.catalog import Catalog
from datamodules.split import Split, known_until
from sid.errors import UserError
from sid.vectors import centred

CONFIDENCE = 40.0
"""Of an event, where that of every pair without one is 1 (Hu et al., section 4.2)."""
REACH = 20
"""Two items of a user meet where at most so many events lie from one to the other."""
DECAY = 0.6
"""What a meeting counts beside one that is an event nearer."""
SMOOTHING = 0.75
"""Power of an item's meetings in its chance of being met (Levy, Goldberg and Dagan 2015, section 3.2)."""
ROUNDING = 1e-3
"""Vectors that are shorter, beside the longest, are what rounding has left of nothing."""


def training_pairs(catalog: Catalog, split: Split) -> tuple[np.ndarray, np.ndarray]:
    """(user_P, item_P) of every event that training may know, no other."""
    user_M = np.repeat(np.arange(catalog.num_users), np.diff(catalog.offsets_U1))
    seen_M = np.arange(catalog.num_events) < known_until(split.train, catalog.offsets_U1)[user_M]
    return user_M[seen_M], catalog.item_M[seen_M]


def collaborative(catalog: Catalog, split: Split, seed: int, width: int = 32) -> torch.Tensor:
    """(N, C) float32 unit vectors by alternating least squares (Hu et al. 2008); zeros for items without an event.

    An event that training does not see has no part in them. Raises UserError where the package implicit is missing.
    """
    user_P, item_P = training_pairs(catalog, split)
    confidence_P = np.full(len(user_P), CONFIDENCE, dtype=np.float32)
    chosen_UN = csr_matrix((confidence_P, (user_P, item_P)), shape=(catalog.num_users, catalog.num_items))
    model = als_or_error()  # before the limit, which holds for what is loaded
    with threadpool_limits(1, "blas"):
        factors = model(factors=width, random_state=seed, num_threads=torch.get_num_threads())
        factors.fit(chosen_UN, show_progress=False)
    vectors_NC = torch.from_numpy(factors.item_factors)
    chosen_N = torch.zeros(catalog.num_items, dtype=torch.bool)
    chosen_N[torch.from_numpy(item_P).long()] = True
    return torch.nn.functional.normalize(vectors_NC, dim=1) * chosen_N[:, None]


def cooccurrence(catalog: Catalog, split: Split, width: int = 128) -> torch.Tensor:
    """(N, C) float32 unit vectors: the C = min(width, N) strongest directions of how much oftener than by chance items
    meet in users' histories; zeros for items that meet none oftener, or that have no part in these directions.

    (U + V) sqrt(S) of the positive pointwise mutual information: word and context vectors (Levy, Goldberg and Dagan
    2015, section 3.3), as two items that meet only each other have nothing in common within U. An event that training
    does not see has no part in them, and the order of time has only as nearness. Holds a few times all pairs of items
    that meet, and (N, 4 C) numbers.
    """
    user_P, item_P = training_pairs(catalog, split)
    shape = (catalog.num_items, catalog.num_items)
    one_way_NN = csr_matrix(shape, dtype=np.float32)
    for back in range(1, REACH + 1):
        met_P = (user_P[back:] == user_P[:-back]) & (item_P[back:] != item_P[:-back])
        weight_E = np.full(np.count_nonzero(met_P), DECAY ** (back - 1), dtype=np.float32)
        one_way_NN += csr_matrix((weight_E, (item_P[:-back][met_P], item_P[back:][met_P])), shape)
    met_NN = (one_way_NN + one_way_NN.T).tocoo()
    total_N = np.bincount(met_NN.row, met_NN.data, catalog.num_items)
    power_N = total_N**SMOOTHING
    information_E = np.log(met_NN.data * power_N.sum() / (total_N[met_NN.row] * power_N[met_NN.col]))
    pairs = met_NN.row, met_NN.col
    positive_NN = csr_matrix((information_E.clip(min=0), pairs), shape, dtype=np.float32)
    with threadpool_limits(1, "blas"):
        left_NC, strength_C, right_CN = randomized_svd(positive_NN, min(width, catalog.num_items), random_state=0)
    vectors_NC = torch.from_numpy((left_NC + right_CN.T) * np.sqrt(strength_C)).float()
    length_N = vectors_NC.norm(dim=1)
    rounding_N = length_N < ROUNDING * length_N.max()
    return torch.nn.functional.normalize(vectors_NC, dim=1).masked_fill(rounding_N[:, None], 0)


def joined(content_ND: np.ndarray, collaborative_NC: torch.Tensor, length: float) -> np.ndarray:
    """(N, D + C) float32: content vectors, centred and of length 1, beside those from who chose what, of `length`."""
    unit_ND = torch.nn.functional.normalize(centred(content_ND), dim=1)
    return torch.cat([unit_ND, length * collaborative_NC], dim=1).numpy()


def als_or_error() -> type:
    """implicit's AlternatingLeastSquares for the CPU. Raises UserError where it is missing."""
    try:
        from implicit.cpu.als import AlternatingLeastSquares
    except ImportError as error:
        raise UserError("implicit is missing; install an extra: pip install -e '.[cpu]' or '.[gpu]'") from error
    return AlternatingLeastSquares
