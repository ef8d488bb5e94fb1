"""TIGER on Amazon Toys and Games (2014, 5-core), leave-one-out, full ranking.

    make exp NAME=tiger_toys

Published (TIGER, Table 1): Recall@10 .0712, NDCG@10 .0432; mean of three seeds .0698 / .0433.
"""

from datamodules.amazon import AmazonConfig
from experiments.config import RunConfig
from experiments.named._tiger import tiger
from experiments.published import beside


def config() -> RunConfig:
    return tiger("tiger_toys", AmazonConfig("Toys_and_Games"), beside("toys"), max_epochs=234)
