"""TIGER on KuaiRec, at the sizes that GLASS compares itself with.

    make exp NAME=tiger_kuairec

Published (GLASS, Table 2, watch ratio above 1): Recall@10 .1202.
"""

from experiments.config import RunConfig
from experiments.named._kuairec import kuairec
from models.configs import TigerConfig


def config() -> RunConfig:
    return kuairec("tiger_kuairec", TigerConfig(width=96, head_width=32, num_user_tokens=0))
