"""Decoder-only retriever on Amazon Sports and Outdoors (2014, 5-core), leave-one-out, full ranking.

    make exp NAME=causal_sports

Published (TIGER, Table 1): Recall@10 .0400, NDCG@10 .0225. Ours: item form .0370 / .0197 (3 seeds, 20
CPU-minutes of training); before 2026-11-23 the flat form (model.form=flat) .0331 / .0167 (3 seeds, 26 CPU-minutes).
"""

from datamodules.amazon import AmazonConfig
from experiments.config import RunConfig
from experiments.named._causal import causal
from experiments.published import beside


def config() -> RunConfig:
    return causal("causal_sports", AmazonConfig("Sports_and_Outdoors"), beside("sports"))
