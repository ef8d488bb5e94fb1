"""Legend: X targets, N items, D width, P additions."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from models.item_softmax import CHUNK, Additions, item_softmax, whole_softmax


def problem(targets: int, items: int, pairs: int, seed: int) -> tuple[list[Tensor], Tensor, Tensor, Tensor]:
    """Leaves (states, items, more), targets, and where more is added."""
    draw = torch.Generator().manual_seed(seed)
    leaves = [torch.randn(size, generator=draw).mul_(2) for size in ((targets, 8), (items, 8), (pairs,))]
    places_P = torch.randperm(targets * items, generator=draw)[:pairs].sort().values
    return leaves, torch.randint(items, (targets,), generator=draw), places_P // items, places_P % items


def loss_and_gradients(function, leaves, target_X, row_P, item_P, given: bool, bf16: bool = False) -> list[Tensor]:  # type: ignore[no-untyped-def]
    states_XD, items_ND, more_P = (leaf.clone().requires_grad_() for leaf in leaves)
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        loss = function(states_XD, items_ND, target_X, Additions(row_P, item_P, more_P) if given else None)
    (3 * loss).backward()
    return [loss.detach(), *(x.grad for x in ((states_XD, items_ND, more_P) if given else (states_XD, items_ND)))]


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 2 * CHUNK + 3), st.integers(1, 40), st.integers(0, 50), st.integers(0, 1000), st.booleans())
def test_chunks_give_loss_and_gradients_of_all_at_once(
    targets: int, items: int, pairs: int, seed: int, given: bool
) -> None:
    asked = *problem(targets, items, min(pairs, targets * items), seed), given
    for mine, whole in zip(
        loss_and_gradients(item_softmax, *asked), loss_and_gradients(whole_softmax, *asked), strict=True
    ):
        torch.testing.assert_close(mine, whole, atol=1e-5, rtol=1e-4)


def test_under_autocast_it_rounds_as_all_at_once_does() -> None:
    asked = *problem(300, 50, 40, 1), True
    exact = loss_and_gradients(whole_softmax, *asked)
    mine, whole = (loss_and_gradients(how, *asked, bf16=True) for how in (item_softmax, whole_softmax))
    assert [x.dtype for x in mine] == [torch.float32] * 4
    for mine_part, whole_part, right in zip(mine, whole, exact, strict=True):
        assert (mine_part - right).norm() <= 1.5 * (whole_part - right).norm() + 1e-3 * right.norm()


def test_a_target_without_a_chance_costs_what_it_costs() -> None:
    states_XD = torch.tensor([[300.0], [1.0]], requires_grad=True)
    loss = item_softmax(states_XD, torch.tensor([[1.0], [-1.0]]), torch.tensor([1, 0]))
    loss.backward()
    assert loss.item() == pytest.approx((600 + torch.tensor(-2.0).exp().log1p().item()) / 2)
    assert states_XD.grad is not None and states_XD.grad.isfinite().all()


def test_a_nan_stays_one() -> None:
    assert item_softmax(torch.full((2, 3), torch.nan), torch.randn(4, 3), torch.tensor([0, 1])).isnan()
