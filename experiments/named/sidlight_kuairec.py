"""Semantic IDs, content and items of their own in one decoder-only retriever, on KuaiRec, with the protocol of GLASS.

make exp NAME=sidlight_kuairec
"""

from experiments.config import RunConfig
from experiments.named._causal import sidlight
from experiments.named._kuairec import kuairec_windows


def config() -> RunConfig:
    return kuairec_windows("sidlight_kuairec", sidlight)
