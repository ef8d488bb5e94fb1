"""TIGER on TAOBAO-MM, at the sizes that GLASS compares itself with.

    make exp NAME=tiger_taobao_mm

Published (GLASS, Table 2): Recall@5 .0756, NDCG@20 .0733.
"""

from experiments.config import RunConfig
from experiments.named._taobao_mm import taobao_mm
from models.configs import TigerConfig


def config() -> RunConfig:
    return taobao_mm("tiger_taobao_mm", TigerConfig(width=96, head_width=32, num_user_tokens=0))
