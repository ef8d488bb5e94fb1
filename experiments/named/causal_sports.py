"""Decoder-only retriever on Amazon Sports and Outdoors (2014, 5-core), leave-one-out, full ranking.

    make exp NAME=causal_sports

Published (TIGER, Table 1): Recall@10 .0400, NDCG@10 .0225. Ours, three seeds: .0457 ± .0005 / .0245 ± .0004, 62
CPU-minutes of training in fp32. Without copying (model.copies=false) .0433 / .0230; with that, on IDs of the content
alone (embed.collaborative=0) .0401 / .0214, on an RQ-VAE's of it (tokenizer=rqvae embed.collaborative=0) .0370 / .0197.
"""

from datamodules.amazon import AmazonConfig
from experiments.config import RunConfig
from experiments.named._causal import causal
from experiments.published import beside


def config() -> RunConfig:
    return causal("causal_sports", AmazonConfig("Sports_and_Outdoors"), beside("sports"))
