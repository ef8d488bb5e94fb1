"""What classic retrievers are trained on: losses over states and answers, whose inner product is an item's score.

Legend: X targets, N items, D width, R negatives.
"""

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from models.item_softmax import item_softmax

Objective = Callable[[Tensor, Tensor, Tensor], Tensor]
"""(states_XD, answers_ND, target_X) -> mean loss of the targets, natural log."""


def objective(name: str, negatives: int) -> Objective:
    """One of OBJECTIVES; `negatives` is how many `sampled_softmax` draws."""
    return partial(sampled_softmax, negatives=negatives) if name == "sampled_softmax" else OBJECTIVES[name]


def sampled_softmax(states_XD: Tensor, answers_ND: Tensor, target_X: Tensor, negatives: int) -> Tensor:
    """Cross-entropy of the target among itself and `negatives` items drawn evenly for every target.

    An item that is drawn and is the target is left out, so that no target competes with itself.
    """
    drawn_XR = torch.randint(len(answers_ND), (len(target_X), negatives), device=target_X.device)
    other_XR = torch.bmm(F.embedding(drawn_XR, answers_ND), states_XD[:, :, None].to(answers_ND.dtype))[:, :, 0]
    other_XR = other_XR.masked_fill(drawn_XR == target_X[:, None], -torch.inf)
    scores_XR = torch.cat([_pairs(states_XD, answers_ND, target_X)[:, None], other_XR.float()], dim=1)
    return F.cross_entropy(scores_XR, torch.zeros_like(target_X))


def binary(states_XD: Tensor, answers_ND: Tensor, target_X: Tensor) -> Tensor:
    """-log sigmoid(target) - log(1 - sigmoid(other)) with one other item (SASRec, arXiv 1808.09781, equation 6)."""
    other_X = _pairs(states_XD, answers_ND, another(target_X, len(answers_ND)))
    return -(F.logsigmoid(_pairs(states_XD, answers_ND, target_X)) + F.logsigmoid(-other_X)).mean()


def bpr(states_XD: Tensor, answers_ND: Tensor, target_X: Tensor) -> Tensor:
    """-log sigmoid(target - other) with one other item (BPR, arXiv 1205.2618)."""
    other_X = _pairs(states_XD, answers_ND, another(target_X, len(answers_ND)))
    return -F.logsigmoid(_pairs(states_XD, answers_ND, target_X) - other_X).mean()


def another(target_X: Tensor, num_items: int) -> Tensor:
    """(X,) items drawn evenly from those that are not the target; the target itself where there is no other."""
    if num_items == 1:
        return target_X
    drawn_X = torch.randint(num_items - 1, target_X.shape, device=target_X.device)
    return drawn_X + (drawn_X >= target_X)


def _pairs(states_XD: Tensor, answers_ND: Tensor, item_X: Tensor) -> Tensor:
    return (states_XD * F.embedding(item_X, answers_ND)).sum(1).float()


OBJECTIVES: dict[str, Objective] = {"softmax": item_softmax, "binary": binary, "bpr": bpr}
