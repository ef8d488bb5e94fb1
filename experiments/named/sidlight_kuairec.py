"""Semantic IDs, content and items of their own in one decoder-only retriever, on KuaiRec, with the protocol of GLASS.

    make exp NAME=sidlight_kuairec

Ours, one seed: Recall@10 .1335, NDCG@10 .0732, 24 CPU-minutes of training in fp32, best after 4 of 12 epochs.
"""

from experiments.config import RunConfig
from experiments.named._causal import sidlight
from experiments.named._kuairec import kuairec_windows


def config() -> RunConfig:
    return kuairec_windows("sidlight_kuairec", sidlight, max_epochs=4)
