"""Content vectors of items, made comparable.

Legend: N items, D width.
"""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor


def centred(vectors_ND: np.ndarray) -> Tensor:
    """(N, D) float32, at unit length, less their mean: what a text encoder gives all texts tells none apart. On Beauty
    the neighbours of a history are worth a fifth more for it (experiments/LOG.md)."""
    unit_ND = F.normalize(torch.from_numpy(np.array(vectors_ND, np.float32)), dim=1)
    return unit_ND - unit_ND.mean(0)
