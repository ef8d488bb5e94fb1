"""TIGER on Amazon Beauty (2014, 5-core), leave-one-out, full ranking.

    make exp NAME=tiger_beauty

Published (TIGER, Table 1): Recall@10 .0648, NDCG@10 .0384; mean of three seeds .0642 / .0374.
Ours: .0337 / .0166 with 1.3 M parameters after 56 minutes on one CPU core, one seed (experiments/LOG.md); the full
recipe awaits a GPU.
"""

from datamodules.amazon import AmazonConfig
from experiments.config import RunConfig

PUBLISHED = {
    "TIGER, Table 1": {"recall@5": 0.0454, "ndcg@5": 0.0321, "recall@10": 0.0648, "ndcg@10": 0.0384},
    "TIGER, mean of 3 seeds": {"recall@5": 0.0441, "ndcg@5": 0.0309, "recall@10": 0.0642, "ndcg@10": 0.0374},
    "SASRec, Table 1": {"recall@10": 0.0605, "ndcg@10": 0.0318},
}


def config() -> RunConfig:
    return RunConfig("tiger_beauty", data=AmazonConfig("Beauty"), published=PUBLISHED)
