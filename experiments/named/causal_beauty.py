"""Decoder-only retriever on Amazon Beauty (2014, 5-core), leave-one-out, full ranking.

    make exp NAME=causal_beauty

Published (TIGER, Table 1): Recall@10 .0648, NDCG@10 .0384. Ours, three seeds: .0693 ± .0024 / .0392 ± .0009, 12
CPU-minutes of training; on an RQ-VAE's IDs (tokenizer=rqvae) .0652 / .0378, before 2026-11-23 the flat form
(model.form=flat) on these .0554 / .0302.
"""

from datamodules.amazon import AmazonConfig
from experiments.config import RunConfig
from experiments.named._causal import causal
from experiments.published import beside


def config() -> RunConfig:
    return causal("causal_beauty", AmazonConfig("Beauty"), beside("beauty"))
