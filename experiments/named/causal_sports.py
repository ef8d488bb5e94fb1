"""Decoder-only retriever on Amazon Sports and Outdoors (2014, 5-core), leave-one-out, full ranking.

    make exp NAME=causal_sports

Published (TIGER, Table 1): Recall@10 .0400, NDCG@10 .0225. Ours has been run with an earlier start alone
(experiments/LOG.md): .0320 / .0160, one seed.
"""

from datamodules.amazon import AmazonConfig
from experiments.config import RunConfig
from experiments.named._causal import causal
from experiments.named.tiger_sports import PUBLISHED


def config() -> RunConfig:
    return causal("causal_sports", AmazonConfig("Sports_and_Outdoors"), PUBLISHED)
