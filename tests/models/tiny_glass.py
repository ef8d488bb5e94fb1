"""A tiny GLASS, its catalogue and its users, for `test_glass.py` and `test_glass_search.py`. Legend: B users, S source
tokens, T items of the long history, N items, L levels, K beams, A first codes."""

from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor

from models.configs import Content, GlassConfig
from models.glass import Glass
from models.tiger import Tiger
from sid.decode import Recommendations
from sid.tokens import PAD
from tests.models.tiny_copying import numbered

SIZES = (6, 4, 3)
NUM_ITEMS = 16
MOST = 4
FEW_SIZES: dict[str, Any] = {"width": 16, "num_layers": 2, "num_heads": 2, "head_width": 8, "ff_width": 32}
GATES = ["vector", "scalar", "fixed", "sum"]
every_gate = pytest.mark.parametrize("gate", GATES)
LONG_LENGTHS = [0, 3, 9, 30]


def catalogue(sizes: tuple[int, ...] = SIZES) -> Content:
    """Items with distinct codes and random vectors; nobody has the last first code."""
    draw = torch.Generator().manual_seed(7)
    every_NL = torch.cartesian_prod(torch.arange(sizes[0] - 1), *(torch.arange(size) for size in sizes[1:]))
    every_NL = every_NL.view(-1, len(sizes))
    codes_NL = every_NL[torch.randperm(len(every_NL), generator=draw)[:NUM_ITEMS]]
    return Content(codes_NL, torch.randn(NUM_ITEMS, 5, generator=draw).numpy())


def tiny(sizes: tuple[int, ...] = SIZES, **changes: Any) -> Glass:
    """A small model in double precision that finds up to four items, and whose gates open differently everywhere; one
    that copies has `numbered` numbers."""
    torch.manual_seed(0)
    config = GlassConfig(**(FEW_SIZES | {"retrieved": MOST, "dropout": 0.0} | changes))
    model = config.build(sizes, 20, catalogue(sizes)).double().eval()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if ".gate." in name or name == "item.weight" or name.startswith("tier_token"):
                weight.normal_(std=0.5)
        if model.copying is not None:
            numbered(model.copying)
    assert isinstance(model, Glass)
    return model


def tiers_of(model: Glass) -> Tensor:
    """(N, A), the tiers that the counters of every item stand for, read byte by byte."""
    rows = [[model.tiers - 1] * model.tokens.codebook_sizes[0] for _ in range(NUM_ITEMS)]
    for plane, bytes_NA in enumerate(model.counters_PNZ[:, :NUM_ITEMS].contiguous().view(torch.uint8).tolist()):
        for row, own in zip(rows, bytes_NA, strict=True):
            for code, value in enumerate(own[: len(row)]):
                if value:
                    row[code] = 4 * plane + (value.bit_length() - 1) // 2
    return torch.tensor(rows)


def padded(rows: list[list[int]], behind: int) -> Tensor:
    longest = max(map(len, rows))
    return torch.tensor([row + [behind] * (longest - len(row)) for row in rows], dtype=torch.long).view(
        len(rows), longest
    )


class Users(NamedTuple):
    """What a model reads of some users."""

    tokens_BS: Tensor
    long_BT: Tensor

    def one(self, user: int) -> "Users":
        """A user without padding."""
        tokens_S, long_T = self.tokens_BS[user], self.long_BT[user]
        return Users(tokens_S[tokens_S != PAD][None], long_T[long_T >= 0][None])


def users(model: Tiger, long_lengths: list[int] = LONG_LENGTHS, seed: int = 0) -> Users:
    """Short histories of one to five items, and so many random items before them."""
    draw = np.random.default_rng(seed)
    codes_NL = catalogue(model.tokens.codebook_sizes).codes_NL
    tokens, long = [], []
    for user, length in enumerate(long_lengths):
        own = model.tokens.encode(codes_NL[draw.integers(0, NUM_ITEMS, 1 + user % 5)]).flatten().tolist()
        tokens.append([model.tokens.offsets[-1] + user % 3] * bool(model.tokens.num_user_tokens) + own)
        long.append(draw.integers(0, NUM_ITEMS, length).tolist())
    return Users(padded(tokens, PAD), padded(long, -1))


def content_of(model: Tiger) -> Tensor:
    return catalogue(model.tokens.codebook_sizes).codes_NL


def same(one: Recommendations, other: Recommendations) -> bool:
    return torch.equal(one.items_BK, other.items_BK) and torch.equal(one.scores_BK, other.scores_BK)
