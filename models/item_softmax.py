"""Cross-entropy over a whole catalogue from inner products of states and items.

Legend: X targets, N items, D width, P additions, R rows of a chunk.
"""

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

CHUNK = 128
"""Rows whose logits a CPU holds at once. Always as many, as every new shape costs oneDNN a compilation."""


class Additions(NamedTuple):
    """What is added to some of the logits."""

    row_P: Tensor
    """Targets, ascending."""
    item_P: Tensor
    """Items; of a pair that comes twice both are added."""
    more_P: Tensor


def item_softmax(states_XD: Tensor, items_ND: Tensor, target_X: Tensor, additions: Additions | None = None) -> Tensor:
    """Mean cross-entropy (natural log) of `target_X` (X,) under logits `states_XD @ items_ND.T`, with `additions`.

    On a CPU loss and gradient are made together, a chunk of rows at a time, so that logits (X, N) never leave the
    cache: twice as fast for 800 targets, 12,000 items and 64 dimensions. There is no second derivative.

    Raises IndexError for a target that is no item.
    """
    if states_XD.device.type != "cpu":
        return whole_softmax(states_XD, items_ND, target_X, additions)
    if len(target_X) and not 0 <= target_X.min() <= target_X.max() < len(items_ND):
        raise IndexError(f"targets from {target_X.min()} to {target_X.max()}: expected items 0 to {len(items_ND) - 1}")
    if additions is None:
        additions = Additions(target_X[:0], target_X[:0], states_XD.new_zeros(0))
    mean: Tensor = _Chunked.apply(states_XD, items_ND, target_X, *additions)
    return mean


def whole_softmax(states_XD: Tensor, items_ND: Tensor, target_X: Tensor, additions: Additions | None = None) -> Tensor:
    """`item_softmax` with all logits at once."""
    return F.cross_entropy(item_logits(states_XD, items_ND, additions), target_X)


def item_logits(states_XD: Tensor, items_ND: Tensor, additions: Additions | None = None) -> Tensor:
    """(X, N), at least float32."""
    logits_XN = _wide(states_XD @ items_ND.T)
    if additions is None:
        return logits_XN
    row_P, item_P, more_P = additions
    return logits_XN.index_put_((row_P, item_P), more_P.to(logits_XN.dtype), accumulate=True)


class _Chunked(torch.autograd.Function):
    """`whole_softmax`, whose gradient is made on the way forward."""

    @staticmethod
    def forward(
        ctx: Any, states_XD: Tensor, items_ND: Tensor, target_X: Tensor, row_P: Tensor, item_P: Tensor, more_P: Tensor
    ) -> Tensor:
        ctx.dtypes = states_XD.dtype, items_ND.dtype
        dtype = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else items_ND.dtype
        items_ND = items_ND.to(dtype)
        padded_XD = F.pad(states_XD.to(dtype), (0, 0, 0, -len(states_XD) % CHUNK))
        grad_states_XD, grad_more_P = torch.empty_like(padded_XD), torch.empty_like(more_P)
        grad_items_ND = torch.zeros_like(_wide(items_ND))
        loss = torch.zeros((), dtype=torch.double)
        for start in range(0, len(target_X), CHUNK):
            rows = slice(start, start + CHUNK)
            pairs = slice(*torch.searchsorted(row_P, torch.tensor([start, start + CHUNK])).tolist())
            place_P = row_P[pairs] - start, item_P[pairs]
            logits_RN = padded_XD[rows] @ items_ND.T
            _add(logits_RN, place_P, more_P[pairs])
            chunk_loss, grad_RN = loss_and_gradient(logits_RN, target_X[rows])
            loss += chunk_loss
            grad_more_P[pairs] = grad_RN[place_P].to(more_P.dtype)
            grad_states_XD[rows] = grad_RN @ items_ND
            grad_items_ND += grad_RN.T @ padded_XD[rows]
        ctx.save_for_backward(grad_states_XD[: len(target_X)], grad_items_ND, grad_more_P)
        return (loss / len(target_X)).to(grad_items_ND.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_mean: Tensor) -> tuple[Tensor | None, ...]:
        grad_states_XD, grad_items_ND, grad_more_P = ctx.saved_tensors
        grad = grad_mean / max(len(grad_states_XD), 1)
        dtypes = ctx.dtypes
        return (
            grad_states_XD.to(dtypes[0]) * grad,
            grad_items_ND.to(dtypes[1]) * grad,
            None,
            None,
            None,
            grad_more_P * grad,
        )


def _add(logits_RN: Tensor, place_P: tuple[Tensor, Tensor], more_P: Tensor) -> None:
    """Adds in place, what comes to one place summed before it is rounded."""
    if logits_RN.dtype == torch.bfloat16:
        sums_RN = torch.zeros_like(logits_RN, dtype=torch.float32)
        logits_RN += sums_RN.index_put_(place_P, more_P.float(), accumulate=True).to(logits_RN.dtype)
    else:
        logits_RN.index_put_(place_P, more_P.to(logits_RN.dtype), accumulate=True)


def loss_and_gradient(logits_RN: Tensor, target_R: Tensor) -> tuple[Tensor, Tensor]:
    """The summed cross-entropy of the targets of the first rows, and its gradient (R, N) in the logits' precision: the
    softmax, less 1 at the target; zero in rows without a target."""
    targets = len(target_R)
    place_R = torch.arange(targets), target_R
    share_RN = logits_RN.softmax(1)
    share_R = _wide(share_RN[place_R])
    share_RN[place_R] = 0
    share_RN[targets:] = 0
    rest_R, log_share_R = 1 - share_R, share_R.log()
    # Near 1 a rounded share says nothing of the rest any more: that is the sum of the others.
    sure_R = share_R > 0.5
    if sure_R.any():
        rest_R[sure_R] = share_RN[:targets][sure_R].sum(1, dtype=rest_R.dtype)
        log_share_R[sure_R] = (-rest_R[sure_R]).log1p()
    lost_R = share_R < torch.finfo(share_R.dtype).tiny
    if lost_R.any():
        lost_logits = _wide(logits_RN[:targets][lost_R])
        log_share_R[lost_R] = -F.cross_entropy(lost_logits, target_R[lost_R], reduction="none")
    share_RN[place_R] = -rest_R.to(share_RN.dtype)
    return -log_share_R.double().sum(), share_RN


def _wide(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))
