"""Item vectors from who chose what: for tokenizers that want items with the same users to be alike.

Array names end in their shape: U users, N items, M events, P pairs, C width.
"""

import numpy as np
import torch
from scipy.sparse import csr_matrix
from threadpoolctl import threadpool_limits

from datamodules.catalog import Catalog
from datamodules.split import Split, known_until
from sid.errors import UserError

CONFIDENCE = 40.0
"""Of an event, where that of every pair without one is 1 (Hu et al., section 4.2)."""


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


def als_or_error() -> type:
    """implicit's AlternatingLeastSquares for the CPU. Raises UserError where it is missing."""
    try:
        from implicit.cpu.als import AlternatingLeastSquares
    except ImportError as error:
        raise UserError("implicit is missing; install an extra: pip install -e '.[cpu]' or '.[gpu]'") from error
    return AlternatingLeastSquares
