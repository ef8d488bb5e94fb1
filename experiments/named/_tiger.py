"""What the experiments with TIGER on Amazon's catalogues have in common."""

from dataclasses import replace
from typing import Any

from datamodules.catalog import CatalogConfig
from datamodules.configs import SequenceConfig
from datamodules.embed import EmbedConfig
from experiments.config import EvaluationConfig, RunConfig, TrainConfig
from lightning_modules.configs import OptimizerConfig
from models.configs import TigerConfig
from sid.configs import ProductConfig

SMALL: dict[str, Any] = {"num_layers": 2, "num_heads": 4, "head_width": 32, "ff_width": 512}
"""The paper's width of 128 with a quarter of its parameters."""


def tiger(
    name: str, data: CatalogConfig, published: dict[str, dict[str, float]] | None = None, max_epochs: int = 200
) -> RunConfig:
    """The paper's recipe: steps of 256 at a rate of 0.01, after 10,000 of them falling with the root of their number.

    That is what T5X does unasked, and its optimiser is Adafactor. `max_epochs` make the paper's 200,000 steps (Toys
    100,000); validation may end them sooner, and picks the weights. Clipping at a norm of 1 is ours.
    """
    optimizer = OptimizerConfig(
        kind="adafactor", learning_rate=0.01, weight_decay=0.0, warmup_steps=0, schedule="constant"
    )
    train = TrainConfig(max_epochs=max_epochs)
    return RunConfig(name, data=data, optimizer=optimizer, train=train, published=published or {})


def tiger_small(
    name: str, data: CatalogConfig, published: dict[str, dict[str, float]], max_epochs: int = 18
) -> RunConfig:
    """A TIGER for a CPU core: the paper's optimiser and rate, random batches of 128 and a cosine, and half its dropout,
    of which so small a model wants less (experiments/LOG.md, "Dropout is what slowed the small TIGER")."""
    base = tiger(name, data, published, max_epochs)
    return replace(
        base,
        sequences=SequenceConfig(batch_size=128, batches="random", eval_users=5000),
        model=TigerConfig(**SMALL, dropout=0.05),
        optimizer=replace(base.optimizer, schedule="cosine"),
        train=replace(base.train, validate_every=6, precision="bf16-mixed"),
        evaluation=EvaluationConfig(num_beams=20, entropy_at=[10, 20]),
    )


def tiger_copying(
    name: str, data: CatalogConfig, published: dict[str, dict[str, float]], max_epochs: int = 12
) -> RunConfig:
    """The small TIGER on the item form's semantic IDs (by OPQ, which know who chose what besides the content), copying
    from the history as that does."""
    base = tiger_small(name, data, published, max_epochs)
    assert isinstance(base.model, TigerConfig)
    return replace(
        base,
        embed=EmbedConfig(collaborative=1.0),
        tokenizer=ProductConfig([256] * 4),
        model=replace(base.model, copies=True),
    )
