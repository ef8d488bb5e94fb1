"""RMSNorm beside torch's."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from models.norm import EPS, RMSNorm, _RMSNorm


@given(st.lists(st.integers(1, 5), max_size=3), st.integers(1, 9), st.sampled_from([1e-4, 1.0, 1e4]), st.booleans())
def test_it_and_its_gradients_equal_torchs(shape: list[int], width: int, size: float, transposed: bool) -> None:
    generator = torch.Generator().manual_seed(width)
    ours, twin = RMSNorm(width), nn.RMSNorm(width, eps=EPS)
    twin.weight.data = ours.weight.data = torch.randn(width, generator=generator)
    x = (size * torch.randn(*shape, width, generator=generator)).requires_grad_()
    y = x.detach().clone().requires_grad_()
    turn = (0, 1) if transposed and len(shape) > 1 else (0, 0)
    result, expected = ours(x.transpose(*turn)), twin(y.transpose(*turn))
    torch.testing.assert_close(result, expected)
    grad = torch.randn(result.shape, generator=generator)
    result.backward(grad)
    expected.backward(grad)
    assert x.grad is not None and y.grad is not None
    without_cancelling = grad.abs().max() * ours.weight.abs().max() / y.square().mean(-1).sqrt().min()
    torch.testing.assert_close(x.grad, y.grad, atol=1e-6 * without_cancelling.item(), rtol=1e-4)
    torch.testing.assert_close(ours.weight.grad, twin.weight.grad, atol=1e-5, rtol=1e-4)


def test_the_way_back_is_the_derivative() -> None:
    x, weight = torch.randn(3, 4, 5, dtype=torch.float64), torch.randn(5, dtype=torch.float64)
    assert torch.autograd.gradcheck(_RMSNorm.apply, (x.requires_grad_(), weight.requires_grad_()))


def test_rows_of_zeros_and_no_rows_stay_what_they_are() -> None:
    norm = RMSNorm(4)
    x = torch.zeros(2, 4, requires_grad=True)
    norm(x).sum().backward()
    assert x.grad is not None and x.grad.isfinite().all() and not norm(x).any()
    assert norm(torch.empty(0, 3, 4)).shape == (0, 3, 4)


def test_the_way_back_is_in_float32_under_autocast_too() -> None:
    grads = []
    for norm in (RMSNorm(64), nn.RMSNorm(64, eps=EPS)):
        torch.manual_seed(0)
        x = torch.randn(50, 64, requires_grad=True)
        with torch.autocast("cpu", torch.bfloat16):
            (norm(x) * torch.randn(50, 64)).sum().backward()
        grads.append((x.grad, norm.weight.grad))
    torch.testing.assert_close(grads[0], grads[1])


@pytest.mark.filterwarnings("ignore:Mismatch dtype")
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_other_types_are_torchs(dtype: torch.dtype) -> None:
    x = torch.randn(3, 4, dtype=dtype)
    assert torch.equal(RMSNorm(4).to(dtype)(x), nn.RMSNorm(4, eps=EPS, dtype=dtype)(x))
    assert torch.equal(RMSNorm(4).to(dtype)(x.float()), nn.RMSNorm(4, eps=EPS, dtype=dtype)(x.float()))
