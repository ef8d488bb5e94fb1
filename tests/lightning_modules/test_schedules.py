"""The learning-rate multipliers, and what torch makes of them."""

import math
from collections.abc import Callable

import pytest
import torch

from lightning_modules.schedules import constant, cosine, inverse_sqrt


def test_inverse_sqrt_rises_in_a_line_and_falls_with_the_root() -> None:
    factor = inverse_sqrt(warmup=4)
    assert [factor(step) for step in range(4)] == [0.25, 0.5, 0.75, 1.0]
    assert factor(15) == pytest.approx(0.5)  # sqrt(4 / 16)
    assert factor(399) == pytest.approx(0.1)  # sqrt(4 / 400)
    assert max(factor(step) for step in range(1000)) == 1.0


def test_constant_rises_in_a_line_and_stays() -> None:
    factor = constant(warmup=4)
    assert [factor(step) for step in (0, 1, 2, 3, 4, 10_000)] == [0.25, 0.5, 0.75, 1.0, 1.0, 1.0]


def test_cosine_rises_in_a_line_and_falls_to_nothing() -> None:
    factor = cosine(warmup=4, total=12)
    assert [factor(step) for step in range(5)] == [0.25, 0.5, 0.75, 1.0, 1.0]
    assert factor(6) == pytest.approx(0.5 * (1 + math.cos(math.pi / 4)))  # 2 of 8 steps down
    assert factor(8) == pytest.approx(0.5)
    assert factor(12) == pytest.approx(0.0)
    assert factor(100) == pytest.approx(0.0)  # and stays there


@pytest.mark.parametrize("factor", [inverse_sqrt(1), constant(3), cosine(0, 10), cosine(10, 10), cosine(20, 10)])
def test_extreme_lengths_stay_between_zero_and_one(factor: Callable[[int], float]) -> None:
    assert all(0 <= factor(step) <= 1 for step in range(50))


def test_no_warm_up_starts_at_the_full_rate() -> None:
    assert constant(0)(0) == cosine(0, 10)(0) == 1.0
    assert inverse_sqrt(0)(0) <= 1.0  # not a division by zero


def test_the_optimizers_rate_is_the_base_rate_times_the_factor() -> None:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, inverse_sqrt(2))
    rates = []
    for _ in range(4):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    assert rates == pytest.approx([0.05, 0.1, 0.1 * math.sqrt(2 / 3), 0.1 * math.sqrt(2 / 4)])
