"""TIGER on Amazon Beauty (2014, 5-core), leave-one-out, full ranking.

    make exp NAME=tiger_beauty

Published (TIGER, Table 1): Recall@10 .0648, NDCG@10 .0384; mean of three seeds .0642 / .0374.
The full recipe awaits a GPU. With fewer steps, on semantic IDs by OPQ, one seed (experiments/LOG.md): .0614 / .0318.
Of a quarter of the size (tiger_small_beauty), three seeds: .0555 / .0304.
"""

from datamodules.amazon import AmazonConfig
from experiments.config import RunConfig
from experiments.named._tiger import tiger
from experiments.published import beside


def config() -> RunConfig:
    return tiger("tiger_beauty", AmazonConfig("Beauty"), beside("beauty"), max_epochs=390)
