"""Item vectors from who chose what: for tokenizers that want items with the same users to be alike.

Array names end in their shape: U users, N items, M events, P pairs, C width.
"""

import numpy as np
import torch

from datamodules.catalog import Catalog
from datamodules.split import Split


def training_pairs(catalog: Catalog, split: Split) -> tuple[np.ndarray, np.ndarray]:
    """(user_P, item_P) of every event that training sees: its targets and what lies before them. No other event."""
    end_U = np.zeros(catalog.num_users, dtype=np.int64)
    np.maximum.at(end_U, split.train.user_E, split.train.end_E)
    seen_M = np.zeros(catalog.num_events, dtype=bool)
    seen_M[split.train.target_E] = True
    user_M = np.repeat(np.arange(catalog.num_users), np.diff(catalog.offsets_U1))
    seen_M |= np.arange(catalog.num_events) < end_U[user_M]
    return user_M[seen_M], catalog.item_M[seen_M]


def collaborative(catalog: Catalog, split: Split, seed: int, width: int = 32) -> torch.Tensor:
    """(N, C) float32 unit vectors by alternating least squares (Hu et al. 2008); zeros for items without an event."""
    raise NotImplementedError
