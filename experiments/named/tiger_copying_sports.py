"""A quarter of TIGER that copies, on Amazon Sports and Outdoors (2014, 5-core), leave-one-out, full ranking.

    make exp NAME=tiger_copying_sports

For a CPU: tiger_small_sports on the item form's semantic IDs, which learns how much likelier, or less likely, the
history makes a code.
Published, of the whole size and without (TIGER, Table 1): Recall@10 .0400, NDCG@10 .0225.
Here, in fp32, one seed, 87 CPU-minutes: .0431 / .0224.
"""

from dataclasses import replace

from datamodules.amazon import AmazonConfig
from experiments.config import RunConfig
from experiments.named._tiger import tiger_copying
from experiments.published import beside


def config() -> RunConfig:
    """As many steps as on Beauty, within 4%."""
    base = tiger_copying("tiger_copying_sports", AmazonConfig("Sports_and_Outdoors"), beside("sports"), max_epochs=8)
    return replace(base, train=replace(base.train, validate_every=4))
