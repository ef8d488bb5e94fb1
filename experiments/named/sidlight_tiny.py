"""A small Sidlight on a synthetic catalogue, for smoke tests.

make exp NAME=sidlight_tiny
"""

from dataclasses import replace

from experiments.config import RunConfig
from experiments.named import causal_tiny
from models.configs import SidlightConfig


def config() -> RunConfig:
    sizes = SidlightConfig(
        width=64, num_layers=2, depth_layers=1, head_width=16, ff_width=128, dropout=0.1, repeats=True, alike=10
    )
    return replace(causal_tiny.config(), name="sidlight_tiny", model=sizes)
