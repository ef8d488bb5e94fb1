"""TIGER of a quarter of the size on Amazon Sports and Outdoors (2014, 5-core), leave-one-out, full ranking, for a CPU.

    make exp NAME=tiger_small_sports

Published, of the whole size (TIGER, Table 1): Recall@10 .0400, NDCG@10 .0225.
Here, three seeds: Recall@10 .0316 ± .0004, NDCG@10 .0160 ± .0002; 40 CPU-minutes with AMX, some 115 in fp32.
"""

from datamodules.amazon import AmazonConfig
from experiments.config import RunConfig
from experiments.named._tiger import tiger_small
from experiments.published import beside


def config() -> RunConfig:
    """As many steps as on Beauty, within 4%."""
    return tiger_small("tiger_small_sports", AmazonConfig("Sports_and_Outdoors"), beside("sports"), max_epochs=12)
