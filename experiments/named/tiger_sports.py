"""TIGER on Amazon Sports and Outdoors (2014, 5-core), leave-one-out, full ranking.

    make exp NAME=tiger_sports

Published (TIGER, Table 1): Recall@10 .0400, NDCG@10 .0225; mean of three seeds .0419 / .0234.
"""

from datamodules.amazon import AmazonConfig
from experiments.config import RunConfig
from experiments.named._tiger import tiger
from experiments.published import beside


def config() -> RunConfig:
    return tiger("tiger_sports", AmazonConfig("Sports_and_Outdoors"), beside("sports"), max_epochs=270)
