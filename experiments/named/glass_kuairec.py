"""GLASS on KuaiRec: TIGER with a long history behind the last 50 items.

    make exp NAME=glass_kuairec

Published (GLASS, Table 2, watch ratio above 1): Recall@10 .1345, TIGER .1202.
"""

from experiments.config import RunConfig
from experiments.named._kuairec import kuairec
from models.configs import GlassConfig


def config() -> RunConfig:
    return kuairec("glass_kuairec", GlassConfig())
