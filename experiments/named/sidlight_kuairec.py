"""Semantic IDs, content and items of their own in one decoder-only retriever, on KuaiRec, with the protocol of GLASS.

    make exp NAME=sidlight_kuairec

Ours, three seeds: Recall@10 .1583 ± .0024, NDCG@10 .0850 ± .0015, some 8 CPU-minutes of training in fp32.
"""

from functools import partial

from experiments.config import RunConfig
from experiments.named._causal import sidlight
from experiments.named._kuairec import kuairec_windows


def config() -> RunConfig:
    return kuairec_windows("sidlight_kuairec", partial(sidlight, alike=0), max_epochs=4)
