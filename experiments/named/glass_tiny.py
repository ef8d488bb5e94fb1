"""A small GLASS on users whose next item depends on what they did long ago (see `datamodules.synthetic_long`).

    make exp NAME=glass_tiny

Chance is Recall@10 .017; who finds category and series is left with 8 items and reaches 1.
"""

from datamodules.configs import SequenceConfig
from datamodules.embed import EmbedConfig
from datamodules.split import SplitConfig
from datamodules.synthetic_long import LongInterestConfig
from experiments.config import EvaluationConfig, RunConfig, TrainConfig
from lightning_modules.configs import OptimizerConfig, RQVAEConfig
from models.configs import GlassConfig


def config() -> RunConfig:
    return RunConfig(
        "glass_tiny",
        data=LongInterestConfig(),
        split=SplitConfig("given"),
        embed=EmbedConfig(encoder="tfidf", dim=64),
        tokenizer=RQVAEConfig(codebook_sizes=[16, 16, 16], hidden=[64], latent=16, batch_size=64, epochs=20),
        sequences=SequenceConfig(max_items=10, batch_size=128),
        model=GlassConfig(width=48, num_layers=1, num_heads=4, head_width=12, ff_width=96),
        optimizer=OptimizerConfig(learning_rate=3e-3, warmup_steps=50, schedule="cosine"),
        train=TrainConfig(max_epochs=16, validate_every=4),
        evaluation=EvaluationConfig(num_beams=20, entropy_at=[10, 20]),
    )
