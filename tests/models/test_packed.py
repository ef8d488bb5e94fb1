"""Legend: B users, S tokens, D width."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from models.attention import Shape
from models.transformer import ROUND, CausalStack

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


def test_what_rounds_the_number_of_places_teaches_nothing() -> None:
    stack = CausalStack(SHAPE)
    for places in (ROUND - 1, ROUND, ROUND + 1):
        states = stack.packed([torch.zeros(places - 1, 1, 16), torch.zeros(1, 1, 16)])
        assert [len(states_BSD) for states_BSD in states] == [places - 1, 1]
        torch.cat(states).sum().backward()
        assert all(gradient.isfinite().all() for gradient in gradients(stack))
