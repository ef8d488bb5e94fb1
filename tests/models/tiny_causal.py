"""A tiny causal model and rows for it, for `test_causal.py` and `test_causal_decoding.py`. Legend: B users, S tokens, T
items, L levels, N items."""

from typing import Any

import pytest
import torch
from torch import Tensor

from models.causal import Causal
from models.configs import CausalConfig, Content
from sid.tokens import PAD

SIZES = (5, 4, 3)
EVERY_NL = torch.cartesian_prod(*(torch.arange(size) for size in SIZES))
MAX_ITEMS = 6
both_forms = pytest.mark.parametrize("form", ["flat", "item"])
with_and_without_users = pytest.mark.parametrize("num_user_tokens", [0, 7])


def tiny(form: str, catalog_NL: Tensor = EVERY_NL, **changes: Any) -> Causal:
    """A small model in double precision, with inputs so large that each of them matters. It copies."""
    torch.manual_seed(0)
    sizes: dict[str, Any] = {"width": 16, "num_layers": 2, "num_heads": 2, "head_width": 8, "ff_width": 32}
    sizes |= {"depth_dropout": 0.0, "copies": True}
    model = CausalConfig(form, **(sizes | changes)).build(SIZES, MAX_ITEMS, Content(catalog_NL)).double().eval()
    with torch.no_grad():
        if model.copying is not None:
            model.copying.more.copy_(torch.tensor([0.1, 0.05, 0.2]))
            model.copying.again.copy_(torch.tensor([-0.3, -0.1, -0.2]))
        for name in ("embedding", "position", "level", "written"):
            if hasattr(model, name):
                getattr(model, name).normal_()
    return model


def opened(model: Causal, tokens_BTL: Tensor) -> Tensor:
    """(B, S): the users' tokens, if there are any, before those of the items."""
    tokens_BS = tokens_BTL.flatten(1)
    if not model.tokens.num_user_tokens:
        return tokens_BS
    return torch.cat([model.tokens.user(torch.arange(len(tokens_BS)))[:, None], tokens_BS], dim=1)


def sequences(model: Causal, lengths: list[int], catalog_NL: Tensor = EVERY_NL) -> Tensor:
    """(B, S) tokens of so many random items a row."""
    items_BT = torch.randint(0, len(catalog_NL), (len(lengths), max(lengths)))
    behind_BT = torch.arange(max(lengths)) >= torch.tensor(lengths)[:, None]
    return opened(model, model.tokens.encode(catalog_NL[items_BT]).masked_fill(behind_BT[..., None], PAD))


def bare(tokens_S: Tensor) -> Tensor:
    """(1, S): the row without its padding."""
    return tokens_S[tokens_S != PAD][None]


def followed(model: Causal, tokens_1S: Tensor, codes_NL: Tensor) -> Tensor:
    """(N, S + L): the row once with each of the items behind it."""
    return torch.cat([tokens_1S.expand(len(codes_NL), -1), model.tokens.encode(codes_NL)], dim=1)


def last_of(length: int) -> Tensor:
    return torch.arange(length) == length - 1
