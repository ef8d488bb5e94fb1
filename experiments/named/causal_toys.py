"""Decoder-only retriever on Amazon Toys and Games (2014, 5-core), leave-one-out, full ranking.

    make exp NAME=causal_toys

Published (TIGER, Table 1): Recall@10 .0712, NDCG@10 .0432. Not run yet.
"""

from datamodules.amazon import AmazonConfig
from experiments.config import RunConfig
from experiments.named._causal import causal
from experiments.published import beside


def config() -> RunConfig:
    return causal("causal_toys", AmazonConfig("Toys_and_Games"), beside("toys"))
