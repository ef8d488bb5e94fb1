"""TIGER on Amazon Toys and Games (2014, 5-core), leave-one-out, full ranking.

    make exp NAME=tiger_toys

Published (TIGER, Table 1): Recall@10 .0712, NDCG@10 .0432; mean of three seeds .0698 / .0433.
"""

from datamodules.amazon import AmazonConfig
from experiments.config import RunConfig

PUBLISHED = {
    "TIGER, Table 1": {"recall@5": 0.0521, "ndcg@5": 0.0371, "recall@10": 0.0712, "ndcg@10": 0.0432},
    "TIGER, mean of 3 seeds": {"recall@5": 0.0518, "ndcg@5": 0.0375, "recall@10": 0.0698, "ndcg@10": 0.0433},
    "SASRec, Table 1": {"recall@10": 0.0675, "ndcg@10": 0.0374},
}


def config() -> RunConfig:
    return RunConfig("tiger_toys", data=AmazonConfig("Toys_and_Games"), published=PUBLISHED)
