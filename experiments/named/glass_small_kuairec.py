"""GLASS on KuaiRec, of sizes that a CPU core trains in a quarter of an hour.

    make exp NAME=glass_small_kuairec

Three seeds: Recall@10 .1058 ± .0011, NDCG@10 .0539 ± .0001, 14 to 15 CPU-minutes each.
"""

from experiments.config import RunConfig
from experiments.named._kuairec import SMALL, kuairec_small
from models.configs import GlassConfig


def config() -> RunConfig:
    return kuairec_small("glass_small_kuairec", GlassConfig(**SMALL, tier_norm=True))
