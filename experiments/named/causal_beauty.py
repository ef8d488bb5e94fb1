"""Decoder-only retriever on Amazon Beauty (2014, 5-core), leave-one-out, full ranking.

    make exp NAME=causal_beauty

Published (TIGER, Table 1): Recall@10 .0648, NDCG@10 .0384. Ours, three seeds: .0808 ± .0003 / .0455 ± .0004, 42
CPU-minutes of training in fp32. Without copying (model.copies=false) .0743 / .0398; with that, on IDs of the content
alone (embed.collaborative=0) .0693 / .0392, on an RQ-VAE's of it (tokenizer=rqvae embed.collaborative=0) .0652 / .0378.
"""

from datamodules.amazon import AmazonConfig
from experiments.config import RunConfig
from experiments.named._causal import causal
from experiments.published import beside


def config() -> RunConfig:
    return causal("causal_beauty", AmazonConfig("Beauty"), beside("beauty"))
