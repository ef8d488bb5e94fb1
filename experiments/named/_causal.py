"""What the experiments with the decoder-only retriever have in common."""

from dataclasses import replace

from datamodules.catalog import CatalogConfig
from datamodules.configs import SequenceConfig
from datamodules.embed import EmbedConfig
from experiments.config import RunConfig, TrainConfig
from lightning_modules.configs import OptimizerConfig, RQVAEConfig
from models.configs import CausalConfig, SidlightConfig
from sid.configs import ProductConfig


def causal(name: str, data: CatalogConfig, published: dict[str, dict[str, float]]) -> RunConfig:
    """The recipe that was chosen on Beauty's validation users, on semantic IDs by OPQ that know who chose what besides
    the content, and copying from the history (experiments/LOG.md)."""
    return RunConfig(
        name,
        data=data,
        embed=EmbedConfig(collaborative=1.0),
        tokenizer=ProductConfig([256] * 4),
        sequences=SequenceConfig(batch_size=1000, eval_users=5000),
        model=CausalConfig(copies=True),
        optimizer=OptimizerConfig(learning_rate=2e-3, weight_decay=0.1, warmup_steps=100, schedule="cosine"),
        train=TrainConfig(max_epochs=24, validate_every=4, precision="bf16-mixed"),
        published=published,
    )


def sidlight(name: str, data: CatalogConfig, published: dict[str, dict[str, float]], alike: int = 100) -> RunConfig:
    """The item form fused with items of their own, which learn who chose what, what comes again and what nearness to
    `alike` neighbours is worth, in place of codes that do: half the epochs, at a higher rate (experiments/LOG.md)."""
    base = causal(name, data, published)
    return replace(
        base,
        embed=EmbedConfig(),
        tokenizer=RQVAEConfig(),
        model=SidlightConfig(dropout=0.4, repeats=True, alike=alike),
        optimizer=replace(base.optimizer, learning_rate=3e-3),
        train=replace(base.train, max_epochs=12),
    )
