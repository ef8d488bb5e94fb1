"""TIGER of a quarter of the size on Amazon Beauty (2014, 5-core), leave-one-out, full ranking, for a CPU.

    make exp NAME=tiger_small_beauty

Published, of the whole size (TIGER, Table 1): Recall@10 .0648, NDCG@10 .0384.
Here, in fp32, three seeds, some 106 CPU-minutes each: Recall@10 .0555 ± .0001, NDCG@10 .0304 ± .0004. On other semantic
IDs and copying from the history (tiger_copying_beauty): .0769 ± .0009 / .0414 ± .0004.
"""

from datamodules.amazon import AmazonConfig
from experiments.config import RunConfig
from experiments.named._tiger import tiger_small
from experiments.published import beside


def config() -> RunConfig:
    return tiger_small("tiger_small_beauty", AmazonConfig("Beauty"), beside("beauty"))
