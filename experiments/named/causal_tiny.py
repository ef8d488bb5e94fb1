"""A small decoder-only retriever on a synthetic catalogue: the whole pipeline in half a minute, for smoke tests.

    make exp NAME=causal_tiny

A working model reaches at least three times the Recall@10 of popularity (see `datamodules.synthetic`).
"""

from dataclasses import replace

from datamodules.configs import SequenceConfig
from experiments.config import RunConfig, TrainConfig
from experiments.named import tiger_tiny
from lightning_modules.configs import OptimizerConfig
from models.configs import CausalConfig


def config() -> RunConfig:
    return replace(
        tiger_tiny.config(),
        name="causal_tiny",
        sequences=SequenceConfig(batch_size=300),
        model=CausalConfig(
            width=64, num_layers=2, depth_layers=1, head_width=16, ff_width=128, dropout=0.1, copies=True
        ),
        optimizer=OptimizerConfig(learning_rate=3e-3, warmup_steps=30, schedule="cosine"),
        train=TrainConfig(max_epochs=8),
    )
