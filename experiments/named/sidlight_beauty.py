"""Semantic IDs, content and items of their own in one decoder-only retriever, on Amazon Beauty.

make exp NAME=sidlight_beauty
"""

from datamodules.amazon import AmazonConfig
from experiments.config import RunConfig
from experiments.named._causal import sidlight
from experiments.published import beside


def config() -> RunConfig:
    return sidlight("sidlight_beauty", AmazonConfig("Beauty"), beside("beauty"))
