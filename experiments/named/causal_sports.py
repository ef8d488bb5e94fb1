"""Decoder-only retriever on Amazon Sports and Outdoors (2014, 5-core), leave-one-out, full ranking.

    make exp NAME=causal_sports

Published (TIGER, Table 1): Recall@10 .0400, NDCG@10 .0225. Ours, three seeds: .0401 ± .0009 / .0214 ± .0003, 17
CPU-minutes of training; on an RQ-VAE's IDs (tokenizer=rqvae) .0370 / .0197, before 2026-11-23 the flat form
(model.form=flat) on these .0331 / .0167.
"""

from datamodules.amazon import AmazonConfig
from experiments.config import RunConfig
from experiments.named._causal import causal
from experiments.published import beside


def config() -> RunConfig:
    return causal("causal_sports", AmazonConfig("Sports_and_Outdoors"), beside("sports"))
