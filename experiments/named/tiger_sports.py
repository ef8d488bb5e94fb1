"""TIGER on Amazon Sports and Outdoors (2014, 5-core), leave-one-out, full ranking.

    make exp NAME=tiger_sports

Published (TIGER, Table 1): Recall@10 .0400, NDCG@10 .0225; mean of three seeds .0419 / .0234.
"""

from datamodules.amazon import AmazonConfig
from experiments.config import RunConfig

PUBLISHED = {
    "TIGER, Table 1": {"recall@5": 0.0264, "ndcg@5": 0.0181, "recall@10": 0.0400, "ndcg@10": 0.0225},
    "TIGER, mean of 3 seeds": {"recall@5": 0.0278, "ndcg@5": 0.0189, "recall@10": 0.0419, "ndcg@10": 0.0234},
    "SASRec, Table 1": {"recall@10": 0.0350, "ndcg@10": 0.0192},
}


def config() -> RunConfig:
    return RunConfig("tiger_sports", data=AmazonConfig("Sports_and_Outdoors"), published=PUBLISHED)
