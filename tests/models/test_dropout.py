"""Dropout beside multiplication by a mask."""

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from models.attention import FeedForward, Shape
from models.dropout import add_dropout, cut, dropout, random_numbers, relu_dropout

RATES = (0.001, 0.1, 0.25, 0.5, 0.9)


@pytest.mark.parametrize("rate", RATES)
def test_the_mean_stays_and_the_stated_share_is_dropped(rate: float) -> None:
    x = torch.ones(2_000_001)
    y = dropout(x, rate, training=True)
    assert (y == 0).float().mean() == pytest.approx(rate, rel=0.1, abs=0)
    assert y.mean() == pytest.approx(1.0, abs=1e-2)
    assert y.unique().numel() == 2


def plain(x: Tensor, training: bool = True) -> Tensor:
    return dropout(x, 0.25, training)


def onto_ones(x: Tensor, training: bool = True) -> Tensor:
    return add_dropout(torch.ones_like(x), x * 1, 0.25, training)


def after_relu(x: Tensor, training: bool = True) -> Tensor:
    result, factor = relu_dropout(x * 1, 0.25, training)
    return result * factor


TWINS: dict[Any, Any] = {plain: lambda x: x, onto_ones: lambda x: x, after_relu: torch.relu}
"""What is dropped of; the second has ones beneath."""


@pytest.mark.parametrize("function", TWINS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_both_ways_equal_a_product_with_the_mask(function: Any, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    x = torch.randn(7, 33, 10, dtype=dtype).transpose(0, 1).requires_grad_()
    torch.manual_seed(1)
    result = function(x)
    torch.manual_seed(1)
    random, (level, scale) = random_numbers(x), cut(0.25)
    mask = ((random > level) | random.isnan()).to(dtype) * scale
    twin = x.detach().clone().requires_grad_()
    expected = TWINS[function](twin) * mask + (function is onto_ones)
    torch.testing.assert_close(result, expected)
    grad = torch.randn_like(x)
    result.backward(grad)
    expected.backward(grad)
    torch.testing.assert_close(x.grad, twin.grad)


def test_a_branch_in_bfloat16_is_added_in_the_type_of_what_it_is_added_to() -> None:
    x, branch = torch.randn(50, 40, requires_grad=True), torch.randn(50, 40).bfloat16().requires_grad_()
    torch.manual_seed(1)
    result = add_dropout(x, branch, 0.25, training=True)
    torch.manual_seed(1)
    random, (level, scale) = random_numbers(branch), cut(0.25)
    mask = ((random > level) | random.isnan()).float() * scale
    torch.testing.assert_close(result, x + branch.float() * mask)
    result.backward(torch.ones_like(result))
    assert x.grad is not None and (x.grad == 1).all()
    torch.testing.assert_close(branch.grad, mask.bfloat16())


def test_a_feed_forward_multiplies_what_it_keeps() -> None:
    layer = FeedForward(Shape(6, 1, 1, 1, 40, dropout=0.25)).double().train()
    x = torch.randn(30, 6, dtype=torch.float64)
    torch.manual_seed(1)
    result = layer(x)
    torch.manual_seed(1)
    random, (level, scale) = random_numbers(layer.inner(x)), cut(0.25)
    expected = layer.out(layer.inner(x).relu() * ((random > level) | random.isnan()) * scale)
    torch.testing.assert_close(result, expected)
    grad = torch.randn_like(result)
    weights = list(layer.parameters())
    ours, twins = (torch.autograd.grad(y, weights, grad) for y in (result, expected))
    torch.testing.assert_close(ours, twins)


def test_the_same_seed_drops_the_same_and_the_next_draw_something_else() -> None:
    draws = []
    for _ in range(2):
        torch.manual_seed(3)
        draws.append([random_numbers(torch.empty(9)).view(torch.int32) for _ in range(2)])
    assert torch.equal(draws[0][0], draws[1][0]) and torch.equal(draws[0][1], draws[1][1])
    assert not torch.equal(draws[0][0], draws[0][1])


def test_there_may_be_nothing_to_drop() -> None:
    assert dropout(torch.empty(0, 4), 0.1, training=True).shape == (0, 4)


def test_without_training_or_a_rate_nothing_changes() -> None:
    x = torch.randn(5)
    assert dropout(x, 0.1, training=False) is x
    assert dropout(x, 0.0, training=True) is x
    assert torch.equal(after_relu(x, training=False), x.relu())
    assert torch.equal(onto_ones(x, training=False), x + 1)


@given(st.floats(1e-4, 0.99))
def test_the_cut_drops_its_share_of_all_bit_patterns(rate: float) -> None:
    level, scale = cut(rate)
    patterns = torch.arange(2**16).to(torch.uint16).view(torch.bfloat16).double()
    dropped = int((patterns <= level).sum())
    assert abs(dropped - rate * 2**16) <= 1.5  # either zero goes with the other
    assert scale == 2**16 / (2**16 - dropped)


def test_what_float16_drops_is_its_rate() -> None:
    assert (dropout(torch.ones(100_000).half(), 0.1, training=True) == 0).float().mean() == pytest.approx(0.1, rel=0.1)


def test_no_gradient_is_taken_twice() -> None:
    x = torch.randn(50, requires_grad=True)
    (grad,) = torch.autograd.grad(dropout(x, 0.5, training=True).square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        grad.sum().backward()
