"""TIGER on KuaiRec at the sizes and steps of `glass_small_kuairec`: GLASS without its long history.

    make exp NAME=tiger_small_kuairec

Not run yet.
"""

from experiments.config import RunConfig
from experiments.named._kuairec import SMALL, kuairec_small
from models.configs import TigerConfig


def config() -> RunConfig:
    return kuairec_small("tiger_small_kuairec", TigerConfig(width=96, head_width=32, num_user_tokens=0, **SMALL))
