"""What the experiments with TIGER on Amazon's catalogues have in common."""

from datamodules.catalog import CatalogConfig
from experiments.config import RunConfig, TrainConfig
from lightning_modules.configs import OptimizerConfig


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
