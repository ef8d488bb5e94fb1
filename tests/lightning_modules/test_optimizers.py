"""What takes a retriever's steps."""

import pytest
import torch
from torch import nn
from transformers.optimization import Adafactor

from experiments.config import hashed
from lightning_modules.configs import OptimizerConfig
from lightning_modules.optimizers import build_optimizer
from models.attention import Attention, Shape


def weights() -> list[nn.Parameter]:
    """A large and a small matrix, and a vector."""
    torch.manual_seed(0)
    return [nn.Parameter(torch.randn(30, 20) * size) for size in (1.0, 0.01)] + [nn.Parameter(torch.ones(20))]


def steps(
    optimizer: torch.optim.Optimizer, parameters: list[nn.Parameter], count: int, size: float = 1.0
) -> list[torch.Tensor]:
    """The weights after some steps with random gradients, each smaller than the one before."""
    generator = torch.Generator().manual_seed(1)
    for step in range(count):
        for parameter in parameters:
            parameter.grad = torch.randn(parameter.shape, generator=generator) * size * 0.9**step
        optimizer.step()
    return [parameter.detach().clone() for parameter in parameters]


@pytest.mark.parametrize("size", [1.0, 1e-2, 1e-4, 1e-6])
def test_adafactor_is_that_of_hugging_face(size: float) -> None:
    config = OptimizerConfig(kind="adafactor", learning_rate=0.01, weight_decay=0.0)
    ours, theirs = weights(), weights()
    other = Adafactor(theirs, lr=0.01, scale_parameter=True, relative_step=False, warmup_init=False)
    after = steps(build_optimizer(config, ours), ours, 20, size)
    for mine, expected in zip(after, steps(other, theirs, 20, size), strict=True):
        torch.testing.assert_close(mine, expected)


def test_adafactor_goes_on_where_it_was() -> None:
    config = OptimizerConfig(kind="adafactor", learning_rate=0.01)
    unbroken, broken = weights(), weights()
    steps(one := build_optimizer(config, unbroken), unbroken, 3)
    steps(two := build_optimizer(config, broken), broken, 3)
    again = build_optimizer(config, broken)
    again.load_state_dict(two.state_dict())
    for mine, expected in zip(steps(again, broken, 3), steps(one, unbroken, 3), strict=True):
        assert torch.equal(mine, expected)


def test_the_kind_is_a_part_of_a_stages_name_only_where_it_is_set() -> None:
    usual = hashed(OptimizerConfig())
    assert "kind" not in usual
    assert hashed(OptimizerConfig(kind="adafactor")) == {**usual, "kind": "adafactor"}


def test_adafactors_step_is_a_share_of_the_weights_and_falls_with_the_root_of_the_steps() -> None:
    """TIGER's schedule: 0.01 for 10,000 steps, then one over the root."""
    config = OptimizerConfig(
        kind="adafactor", learning_rate=0.01, weight_decay=0.0, schedule="constant", warmup_steps=0
    )
    for done, rate in (0, 0.01), (9_998, 0.01), (39_999, 0.005):
        parameters = weights()
        optimizer = build_optimizer(config, parameters)
        before = steps(optimizer, parameters, 1)
        for parameter in parameters:
            optimizer.state[parameter]["step"].fill_(done)
        after = steps(optimizer, parameters, 1)
        for old, new in zip(before, after, strict=True):
            rms = old.square().mean().sqrt()
            assert (new - old).square().mean().sqrt() == pytest.approx(float(rate * rms), rel=0.05)


@pytest.mark.parametrize("kind", ["adamw", "adafactor"])
def test_vectors_do_not_decay(kind: str) -> None:
    optimizer = build_optimizer(OptimizerConfig(kind=kind, weight_decay=0.3), weights())
    decays = {p.ndim: group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    assert decays == {2: 0.3, 1: 0.0}


def test_a_step_of_t5s_attention_is_that_share_of_each_part() -> None:
    """Queries start a good deal smaller than keys and values."""
    torch.manual_seed(0)
    attention = Attention(Shape(64, 1, 4, 16, 64, 0.0), cross=False)
    parameters = list(attention.parameters())
    before = [weight.detach().clone() for weight in parameters]
    after = steps(build_optimizer(OptimizerConfig(kind="adafactor", learning_rate=0.01), parameters), parameters, 1)
    for old, new in zip(before, after, strict=True):
        assert (new - old).square().mean().sqrt() == pytest.approx(0.01 * float(old.square().mean().sqrt()), rel=0.1)
    assert before[0].std() > 4 * before[1].std()
