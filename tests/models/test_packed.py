"""Legend: B users, S tokens, D width."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from models.attention import Shape
from models.transformer import ROUND, CausalStack, rounded

SHAPE = Shape(width=16, num_layers=2, num_heads=2, head_width=8, ff_width=24, dropout=0.0)
sizes = st.tuples(st.integers(1, 5), st.integers(1, 7))


def gradients(stack: CausalStack) -> list[Tensor]:
    found = [p.grad.clone() for p in stack.parameters() if p.grad is not None]
    stack.zero_grad()
    return found


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(sizes, st.booleans()), min_size=1, max_size=5), st.integers(0, 1000))
def test_packed_parts_are_what_each_is_alone(asked: list[tuple[tuple[int, int], bool]], seed: int) -> None:
    torch.manual_seed(seed)
    stack = CausalStack(SHAPE)
    inputs = [torch.randn(*size, 16, requires_grad=True) for size, _ in asked]
    biases = [torch.randn(size[0], 1, 1, size[1]) if biased else None for size, biased in asked]
    alone = [stack(x_BSD, bias) for x_BSD, bias in zip(inputs, biases, strict=True)]
    packed = stack.packed(inputs, biases)
    torch.testing.assert_close(packed, alone, atol=1e-5, rtol=1e-4)
    learnt = []
    for states in (alone, packed):
        sum((x_BSD.sin() ** 2).sum() for x_BSD in states).backward()  # type: ignore[union-attr]
        learnt.append(gradients(stack) + [x_BSD.grad.clone() for x_BSD in inputs])  # type: ignore[union-attr]
        for x_BSD in inputs:
            x_BSD.grad = None
    torch.testing.assert_close(learnt[1], learnt[0], atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("places", [ROUND - 1, ROUND, ROUND + 1])
def test_what_rounds_the_number_of_places_teaches_nothing(places: int) -> None:
    torch.manual_seed(0)
    stack = CausalStack(SHAPE)
    inputs = [torch.randn(places - 1, 1, 16), torch.randn(1, 1, 16)]
    learnt = []
    for states in ([stack(x_BSD) for x_BSD in inputs], stack.packed(inputs)):
        sum((x_BSD.sin() ** 2).sum() for x_BSD in states).backward()  # type: ignore[union-attr]
        learnt.append(gradients(stack))
    torch.testing.assert_close(learnt[1], learnt[0], atol=1e-4, rtol=1e-3)


def test_packed_parts_drop_out_their_share_in_training() -> None:
    torch.manual_seed(0)
    stack = CausalStack(replace(SHAPE, dropout=0.25, num_layers=0))
    stack.norm = torch.nn.Identity()  # type: ignore[assignment]
    states = stack.packed([torch.ones(60, 7, 16), torch.ones(90, 5, 16)])
    values = torch.cat([x_BSD.flatten() for x_BSD in states])
    assert sorted(set(values.tolist())) == pytest.approx([0, 1 / 0.75])
    assert (values == 0).float().mean() == pytest.approx(0.25, abs=0.02)


def test_under_autocast_packed_parts_are_nearer_to_float32_than_each_alone() -> None:
    """Their attention is not rounded."""
    torch.manual_seed(0)
    stack = CausalStack(SHAPE)
    inputs = [torch.randn(4, 7, 16), torch.randn(6, 5, 16)]
    exact = torch.cat([stack(x_BSD).flatten() for x_BSD in inputs])
    with torch.autocast("cpu", torch.bfloat16):
        alone = torch.cat([stack(x_BSD).flatten() for x_BSD in inputs])
        packed = torch.cat([x_BSD.flatten() for x_BSD in stack.packed(inputs)])
    assert packed.dtype == torch.float32
    assert 0 < (packed - exact).norm() < 1.2 * (alone - exact).norm()


@pytest.mark.parametrize("rows", [0, 1, ROUND, ROUND + 1])
@pytest.mark.parametrize("shape", [(), (3,), (3, 2)])
def test_rounded_adds_zeros_behind(rows: int, shape: tuple[int, ...]) -> None:
    x = torch.ones(rows, *shape, dtype=torch.long)
    wide = rounded(x)
    assert len(wide) == -(-rows // ROUND) * ROUND and wide.dtype == x.dtype
    assert torch.equal(wide[:rows], x) and not wide[rows:].any()
