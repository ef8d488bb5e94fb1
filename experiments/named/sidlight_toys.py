"""Semantic IDs, content and items of their own in one decoder-only retriever, on Amazon Toys and Games.

make exp NAME=sidlight_toys
"""

from datamodules.amazon import AmazonConfig
from experiments.config import RunConfig
from experiments.named._causal import sidlight
from experiments.published import beside


def config() -> RunConfig:
    return sidlight("sidlight_toys", AmazonConfig("Toys_and_Games"), beside("toys"))
