"""A quarter of TIGER that copies, on Amazon Toys and Games (2014, 5-core), leave-one-out, full ranking.

    make exp NAME=tiger_copying_toys

For a CPU: tiger_small_toys on the item form's semantic IDs, which learns how much likelier, or less likely, the
history makes a code.
Published, of the whole size and without (TIGER, Table 1): Recall@10 .0712, NDCG@10 .0432. Not run yet.
"""

from datamodules.amazon import AmazonConfig
from experiments.config import RunConfig
from experiments.named._tiger import tiger_copying
from experiments.published import beside


def config() -> RunConfig:
    return tiger_copying("tiger_copying_toys", AmazonConfig("Toys_and_Games"), beside("toys"))
