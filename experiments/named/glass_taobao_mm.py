"""GLASS on TAOBAO-MM: TIGER with up to 1,000 older items behind the last 50.

    make exp NAME=glass_taobao_mm

Published (GLASS, Table 2): Recall@5 .0934, NDCG@20 .0893; TIGER .0756, .0733.
"""

from experiments.config import RunConfig
from experiments.named._taobao_mm import taobao_mm
from models.configs import GlassConfig


def config() -> RunConfig:
    return taobao_mm("glass_taobao_mm", GlassConfig(tier_norm=True))
