"""Legend: X targets, N items, D width, P additions."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from models.item_softmax import CHUNK, Additions, item_softmax, whole_softmax


def problem(targets: int, items: int, pairs: int, seed: int) -> tuple[list[Tensor], Tensor, tuple[Tensor, Tensor]]:
    """Leaves (states, items, more), targets, and where more is added, to some places several times."""
    draw = torch.Generator().manual_seed(seed)
    leaves = [torch.randn(size, generator=draw).mul_(2) for size in ((targets, 8), (items, 8), (pairs,))]
    places_P = torch.randint(targets * items, (pairs,), generator=draw).sort().values
    return leaves, torch.randint(items, (targets,), generator=draw), (places_P // items, places_P % items)


def measured(
    softmax: Callable[..., Tensor],
    leaves: list[Tensor],
    target_X: Tensor,
    places: tuple[Tensor, Tensor],
    added: bool,
    bf16: bool = False,
) -> list[Tensor]:
    """The loss, and the gradients of three times it."""
    states_XD, items_ND, more_P = (leaf.clone().requires_grad_() for leaf in leaves)
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        loss = softmax(states_XD, items_ND, target_X, Additions(*places, more_P) if added else None)
    (3 * loss).backward()
    learnt = [states_XD.grad, items_ND.grad, *([more_P.grad] if added else [])]
    return [loss.detach(), *(gradient for gradient in learnt if gradient is not None)]


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 2 * CHUNK + 3),
    st.integers(1, 40),
    st.integers(0, 50),
    st.integers(0, 1000),
    st.booleans(),
    st.sampled_from([1.0, 20.0]),
)
def test_chunks_give_loss_and_gradients_of_all_at_once(
    targets: int, items: int, pairs: int, seed: int, added: bool, scale: float
) -> None:
    """In double too, and where targets are as good as certain or out of reach."""
    leaves, *where = problem(targets, items, min(pairs, targets * items), seed)
    leaves[0] *= scale
    for dtype, near in ((torch.float32, 1e-4), (torch.float64, 1e-9)):
        asked = [leaf.to(dtype) for leaf in leaves], *where, added
        for mine, whole in zip(measured(item_softmax, *asked), measured(whole_softmax, *asked), strict=True):
            assert mine.dtype == dtype
            torch.testing.assert_close(mine, whole, atol=near * scale, rtol=near)


def test_under_autocast_it_rounds_as_all_at_once_does() -> None:
    asked = *problem(300, 50, 40, 1), True
    exact = measured(whole_softmax, *asked)
    mine, whole = (measured(how, *asked, bf16=True) for how in (item_softmax, whole_softmax))
    assert [x.dtype for x in mine] == [torch.float32] * 4
    for mine_part, whole_part, right in zip(mine, whole, exact, strict=True):
        assert (mine_part - right).norm() <= 1.5 * (whole_part - right).norm() + 1e-3 * right.norm()


def test_many_small_additions_to_one_place_are_summed_before_they_are_rounded() -> None:
    draw = torch.Generator().manual_seed(0)
    states_XD, items_ND = (14 * F.normalize(torch.randn(size, 8, generator=draw), dim=1) for size in (40, 30))
    row_P = torch.arange(40).repeat_interleave(100)
    more = Additions(row_P, torch.arange(100).repeat(40) % 3, torch.full((4000,), 0.01))
    target_X = torch.zeros(40, dtype=torch.long)
    exact, plain = (whole_softmax(states_XD, items_ND / 14, target_X, added) for added in (more, None))
    with torch.autocast("cpu", torch.bfloat16):
        found = item_softmax(states_XD, items_ND / 14, target_X, more)
    assert abs(found - exact) < 0.1 * abs(plain - exact)


@pytest.mark.parametrize("scale", [10.0, 14.0, 20.0])
def test_what_is_nearly_certain_is_still_learnt_under_autocast(scale: float) -> None:
    """Where the target's share is 1 in bfloat16, its gradient is what the others sum up to."""
    torch.manual_seed(0)
    items_ND, target_X = F.normalize(torch.randn(2000, 64), dim=1), torch.arange(200)
    states_XD = (items_ND[:200] * scale).requires_grad_()
    gradients = []
    for how, bf16 in ((whole_softmax, False), (item_softmax, True)):
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            loss = how(states_XD, items_ND, target_X)
        gradients.append(torch.autograd.grad(loss, states_XD)[0])
    assert (gradients[1] - gradients[0]).norm() < 0.03 * gradients[0].norm()
    assert loss.item() == pytest.approx(whole_softmax(states_XD, items_ND, target_X).item(), rel=0.05)


@pytest.mark.parametrize("target", [-1, 3])
def test_a_target_that_is_no_item_is_an_error(target: int) -> None:
    with pytest.raises(IndexError, match="expected items 0 to 2"):
        item_softmax(torch.randn(2, 4), torch.randn(3, 4), torch.tensor([0, target]))


def test_no_target_teaches_nothing() -> None:
    leaves = [torch.randn(0, 4, requires_grad=True), torch.randn(3, 4, requires_grad=True)]
    loss = item_softmax(*leaves, torch.zeros(0, dtype=torch.long))
    loss.backward()
    assert loss.isnan() and leaves[1].grad is not None and not leaves[1].grad.any()


def test_a_target_without_a_chance_costs_what_it_costs() -> None:
    states_XD = torch.tensor([[300.0], [1.0]], requires_grad=True)
    loss = item_softmax(states_XD, torch.tensor([[1.0], [-1.0]]), torch.tensor([1, 0]))
    loss.backward()
    assert loss.item() == pytest.approx((600 + torch.tensor(-2.0).exp().log1p().item()) / 2)
    assert states_XD.grad is not None and states_XD.grad.isfinite().all()


def test_a_nan_stays_one() -> None:
    assert item_softmax(torch.full((2, 3), torch.nan), torch.randn(4, 3), torch.tensor([0, 1])).isnan()
