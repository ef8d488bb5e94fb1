"""A quarter of TIGER that copies, on Amazon Beauty (2014, 5-core), leave-one-out, full ranking.

    make exp NAME=tiger_copying_beauty

For a CPU: tiger_small_beauty on the item form's semantic IDs, which learns how much likelier, or less likely, the
history makes a code.
Published, of the whole size and without (TIGER, Table 1): Recall@10 .0648, NDCG@10 .0384.
Here, in fp32, three seeds, some 100 CPU-minutes each: .0769 ± .0009 / .0414 ± .0004.
"""

from datamodules.amazon import AmazonConfig
from experiments.config import RunConfig
from experiments.named._tiger import tiger_copying
from experiments.published import beside


def config() -> RunConfig:
    return tiger_copying("tiger_copying_beauty", AmazonConfig("Beauty"), beside("beauty"))
