"""GLASS on KuaiRec, of sizes that a CPU core trains in a quarter of an hour.

    make exp NAME=glass_small_kuairec

Not run yet as it is here.
"""

from experiments.config import RunConfig
from experiments.named._kuairec import SMALL, kuairec_small
from models.configs import GlassConfig


def config() -> RunConfig:
    return kuairec_small("glass_small_kuairec", GlassConfig(**SMALL, tier_norm=True))
