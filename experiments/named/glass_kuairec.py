"""GLASS on KuaiRec: TIGER with a long history behind the last 50 items.

    make exp NAME=glass_kuairec

Published (GLASS, Table 2, watch ratio above 1): Recall@10 .1345, TIGER .1202. For a GPU; on ratios above 2, smaller,
and on IDs that know who watched what: `glass_small_kuairec`. The tier token is normalised, which the paper does not do:
it is learnt much sooner.
"""

from experiments.config import RunConfig
from experiments.named._kuairec import kuairec
from models.configs import GlassConfig


def config() -> RunConfig:
    return kuairec("glass_kuairec", GlassConfig(tier_norm=True))
