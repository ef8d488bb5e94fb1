"""TIGER on KuaiRec at the sizes and steps of `glass_small_kuairec`: GLASS without its long history.

    make exp NAME=tiger_small_kuairec

Two seeds: Recall@10 .0998 ± .0026, NDCG@10 .0510 ± .0018; GLASS is ahead by 6.5% and 5.7%.
"""

from experiments.config import RunConfig
from experiments.named._kuairec import SMALL, kuairec_small
from models.configs import TigerConfig


def config() -> RunConfig:
    return kuairec_small("tiger_small_kuairec", TigerConfig(width=96, head_width=32, num_user_tokens=0, **SMALL))
