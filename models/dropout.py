"""Dropout. On a CPU a mask is made of 16 random bits an element, and applied in the pass that compares them.

The bits are read as bfloat16, and `threshold_backward` (give this where that is above a level, else 0) is that pass.
`F.dropout` makes a mask of bits, then of numbers, then multiplies.
"""

from functools import lru_cache
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

kept_above = torch.ops.aten.threshold_backward
"""(x, other, level): x where `other` is above the level or NaN, else 0."""


def dropout(x: Tensor, rate: float, training: bool) -> Tensor:
    """`F.dropout`; on a CPU the rate is rounded to 2^-16, and no more than .996 is dropped."""
    if not training or rate == 0.0:
        return x
    if elsewhere(x):
        return F.dropout(x, rate)
    return _Dropout.apply(x, random_numbers(x), *cut(rate))


def add_dropout(x: Tensor, branch: Tensor, rate: float, training: bool) -> Tensor:
    """`x + dropout(branch)`, of one shape; the branch's type is x's or narrower."""
    if not training or rate == 0.0 or elsewhere(branch):
        return x + dropout(branch, rate, training)
    return _AddDropout.apply(x, branch, random_numbers(branch), *cut(rate))


def relu_dropout(x: Tensor, rate: float, training: bool) -> tuple[Tensor, float]:
    """What is kept of `x.relu()`, and the factor that it is still to be multiplied by, which is cheaper on the weights
    that read it; may overwrite x. On a CPU only the result is kept for the way back."""
    if not training or rate == 0.0 or elsewhere(x):
        return dropout(x.relu_(), rate, training), 1.0
    level, scale = cut(rate)
    return _ReLUDropout.apply(x, random_numbers(x), level), scale


def elsewhere(x: Tensor) -> bool:
    """Not on a CPU, or in float16, which does not reach as far as bfloat16."""
    return x.device.type != "cpu" or x.dtype == torch.float16


def random_numbers(x: Tensor) -> Tensor:
    """Of the shape and type of x, every bit pattern of bfloat16 as likely as any other. torch's generator gives the
    seed; numpy's is twice as fast."""
    words = np.random.SFC64(int(torch.randint(2**63 - 1, ()))).random_raw(x.numel() // 4 + 1)
    return torch.from_numpy(words).view(torch.bfloat16)[: x.numel()].view(x.shape).to(x.dtype)


@lru_cache
def cut(rate: float) -> tuple[float, float]:
    """The level that a share `rate` of all bit patterns of bfloat16 is not above (rounded), and one over the share that
    is above it or NaN, which 254 of the patterns are: about 1 / (1 - rate), by which what is kept is multiplied."""
    patterns = torch.arange(-(2**15), 2**15).short().view(torch.bfloat16).float()
    in_order = patterns.nan_to_num(torch.inf, torch.inf, -torch.inf).sort().values
    level = in_order[max(round(rate * 2**16), 1) - 1].item()
    return level, 2**16 / int((~(patterns <= level)).sum())


class _Dropout(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, random: Tensor, level: float, scale: float) -> Tensor:
        ctx.save_for_backward(random)
        ctx.level, ctx.scale = level, scale
        return kept_above(x, random, level).mul_(scale)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:
        (random,) = ctx.saved_tensors
        return kept_above(grad, random, ctx.level).mul_(ctx.scale), None, None, None


class _AddDropout(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, branch: Tensor, random: Tensor, level: float, scale: float) -> Tensor:
        ctx.save_for_backward(random)
        ctx.level, ctx.scale = level, scale
        kept = kept_above(branch, random, level).to(x.dtype)
        return torch.add(x, kept, alpha=scale, out=kept)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None, None, None]:
        (random,) = ctx.saved_tensors
        return grad, kept_above(grad.to(random.dtype), random, ctx.level).mul_(ctx.scale), None, None, None


class _ReLUDropout(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, random: Tensor, level: float) -> Tensor:
        ctx.mark_dirty(x)
        kept_above.grad_input(x, random, level, grad_input=x).relu_()
        ctx.save_for_backward(x)
        return x

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        (result,) = ctx.saved_tensors
        return kept_above(grad, result, 0), None, None
