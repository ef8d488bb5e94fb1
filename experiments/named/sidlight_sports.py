"""Semantic IDs, content and items of their own in one decoder-only retriever, on Amazon Sports and Outdoors.

make exp NAME=sidlight_sports
"""

from datamodules.amazon import AmazonConfig
from experiments.config import RunConfig
from experiments.named._causal import sidlight
from experiments.published import beside


def config() -> RunConfig:
    return sidlight("sidlight_sports", AmazonConfig("Sports_and_Outdoors"), beside("sports"))
