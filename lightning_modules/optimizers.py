"""What takes the steps of a retriever's training, and at which rate."""

from collections.abc import Callable, Iterable

import torch
from torch import nn

from lightning_modules.configs import OptimizerConfig
from lightning_modules.schedules import constant, cosine, inverse_sqrt

ADAFACTOR_EPS = (1e-15, 1e-3)
"""T5's. torch squares the first one for every number, and clamps with it the mean squared gradient of a matrix as it
is: its default of 1e-7 is above most of ours, whose steps would not get smaller with their gradients any more."""


def build_optimizer(config: OptimizerConfig, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
    """The optimiser of these parameters; weights that are vectors do not decay, tables of biases by distance do."""
    parameters = list(parameters)
    groups = [
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": config.weight_decay},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]
    if config.kind == "adafactor":
        return torch.optim.Adafactor(groups, lr=config.learning_rate, eps=ADAFACTOR_EPS)
    return torch.optim.AdamW(groups, lr=config.learning_rate, fused=True)


def build_schedule(config: OptimizerConfig, total_steps: Callable[[], int]) -> Callable[[int], float]:
    """Factor of the rate at every step. `total_steps`, those of the run, is asked only where it matters."""
    if config.schedule == "cosine":
        return cosine(config.warmup_steps, total_steps())
    return {"constant": constant, "inverse_sqrt": inverse_sqrt}[config.schedule](config.warmup_steps)
