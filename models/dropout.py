"""Dropout. On a CPU a mask is made of 16 random bits an element, and applied in the pass that compares them.

The bits are read as bfloat16, and `threshold_backward` (give this where that is above a level, else 0) is that pass.
`F.dropout` makes a mask of bits, then of numbers, then multiplies.
"""

from functools import lru_cache
from typing import Any

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


def relu_dropout(x: Tensor, rate: float, training: bool) -> Tensor:
    """`dropout(x.relu())`; may overwrite x. On a CPU only the result is kept for the way back."""
    if not training or rate == 0.0 or elsewhere(x):
        return dropout(x.relu_(), rate, training)
    return _ReLUDropout.apply(x, random_numbers(x), *cut(rate))


def elsewhere(x: Tensor) -> bool:
    """Not on a CPU, or in float16, which does not reach as far as bfloat16."""
    return x.device.type != "cpu" or x.dtype == torch.float16


def random_numbers(x: Tensor) -> Tensor:
    """Of the shape and type of x, every bit pattern of bfloat16 as likely as any other."""
    words = torch.empty(-(-x.numel() // 4), dtype=torch.int64).random_(-(2**63), None)
    return words.view(torch.bfloat16)[: x.numel()].view(x.shape).to(x.dtype)


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


class _ReLUDropout(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, random: Tensor, level: float, scale: float) -> Tensor:
        result = kept_above(x, random, level).relu_().mul_(scale)
        ctx.save_for_backward(result)
        ctx.scale = scale
        return result

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:
        (result,) = ctx.saved_tensors
        return kept_above(grad, result, 0).mul_(ctx.scale), None, None, None
