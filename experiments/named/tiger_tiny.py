"""A small TIGER on a synthetic catalogue: the whole pipeline in a minute, for smoke tests and a first look.

    make exp NAME=tiger_tiny

A working model reaches at least three times the Recall@10 of popularity (see `datamodules.synthetic`).
"""

from datamodules.configs import SequenceConfig
from datamodules.embed import EmbedConfig
from datamodules.synthetic import SyntheticConfig
from experiments.config import EvaluationConfig, RunConfig, TrainConfig
from lightning_modules.configs import OptimizerConfig, RQVAEConfig
from models.configs import TigerConfig


def config() -> RunConfig:
    return RunConfig(
        "tiger_tiny",
        data=SyntheticConfig(),
        embed=EmbedConfig(encoder="tfidf", dim=64),
        tokenizer=RQVAEConfig(codebook_sizes=[16, 16, 16], hidden=[64], latent=16, batch_size=64, epochs=20),
        sequences=SequenceConfig(batch_size=64),
        model=TigerConfig(width=64, num_layers=2, num_heads=4, head_width=16, ff_width=128, num_user_tokens=0),
        optimizer=OptimizerConfig(learning_rate=2e-3, warmup_steps=100, schedule="cosine"),
        train=TrainConfig(max_epochs=8),
        evaluation=EvaluationConfig(num_beams=50),
    )
