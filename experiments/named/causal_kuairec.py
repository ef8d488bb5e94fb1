"""Decoder-only retriever on KuaiRec, with the protocol of GLASS.

make exp NAME=causal_kuairec
"""

from experiments.config import RunConfig
from experiments.named._causal import causal
from experiments.named._kuairec import kuairec_windows


def config() -> RunConfig:
    return kuairec_windows("causal_kuairec", causal, max_epochs=8)
