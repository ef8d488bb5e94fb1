"""Batches of prefixes in parts of any length, beside each part alone. Legend: B users, S source tokens, L levels."""

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from models.attention import Attention, Packed, Shape
from models.configs import Content, P5Config, TigerConfig
from models.tiger import Tiger
from sid.tokens import PAD
from tests.models import tiny_glass
from tests.models.tiny_copying import numbered

SIZES = (7, 5, 3)
SMALL: dict[str, Any] = {"width": 16, "num_layers": 2, "num_heads": 2, "head_width": 8, "ff_width": 32, "dropout": 0.0}


def learnt(model: Tiger, loss: Tensor) -> list[Tensor]:
    """The gradients of all weights."""
    return list(torch.autograd.grad(loss, [*model.parameters()], allow_unused=True))


def mean_of_losses(model: Any, prefixes: Sequence[tuple[Tensor, ...]]) -> Tensor:
    """The slow twin of `prefix_loss`: part by part."""
    rows = [len(codes_BL) for *_, codes_BL in prefixes]
    losses = torch.stack([model.loss(*part) for part in prefixes])
    return (losses * torch.tensor(rows)).sum() / sum(rows)


def check(model: Any, prefixes: Sequence[tuple[Tensor, ...]]) -> None:
    together, apart = model.prefix_loss(prefixes), mean_of_losses(model, prefixes)
    torch.testing.assert_close(together, apart)
    torch.testing.assert_close(learnt(model, together), learnt(model, apart))


def codes(rows: int) -> Tensor:
    return torch.stack([torch.randint(0, size, (rows,)) for size in SIZES], dim=1)


def histories(model: Tiger, lengths: list[int]) -> Tensor:
    """A user token and so many items a row; PAD behind."""
    items_BTL = model.tokens.encode(torch.stack([codes(max(lengths)) for _ in lengths]))
    missing_BT = torch.arange(max(lengths)) >= torch.tensor(lengths)[:, None]
    items_BS = items_BTL.masked_fill(missing_BT[..., None], PAD).flatten(1)
    return torch.cat([model.tokens.user(torch.arange(len(lengths)))[:, None], items_BS], dim=1)


@pytest.mark.parametrize("kind", [TigerConfig, P5Config])
@settings(max_examples=15, deadline=None)
@given(lengths=st.lists(st.lists(st.integers(1, 6), min_size=1, max_size=4), min_size=1, max_size=4))
def test_parts_together_teach_what_each_teaches_alone(kind: Any, lengths: list[list[int]]) -> None:
    torch.manual_seed(0)
    model = kind(**SMALL, num_user_tokens=10).build(SIZES, 20).double()
    check(model, [(histories(model, part), codes(len(part))) for part in lengths])


@pytest.mark.parametrize("changes", [{}, {"gate": "sum"}, {"tier": False}, {"search": False}, {"copies": True}])
def test_glass_finds_in_parts_what_it_finds_alone(changes: dict[str, Any]) -> None:
    model = tiny_glass.tiny(**changes)
    parts = []
    for seed, long_lengths in enumerate([[0, 3], [9], [30, 1, 0, 5], [0]]):
        some = tiny_glass.users(model, long_lengths, seed)
        parts.append((*some, tiny_glass.content_of(model)[torch.arange(len(long_lengths)) + seed]))
    check(model, parts)


def test_a_tiger_copies_in_parts_what_it_copies_alone() -> None:
    torch.manual_seed(0)
    content = Content(torch.cartesian_prod(*(torch.arange(size) for size in SIZES)))
    model = TigerConfig(**SMALL, num_user_tokens=10, copies=True).build(SIZES, 20, content).double()
    assert model.copying is not None
    numbered(model.copying)
    parts = [(histories(model, part), codes(len(part))) for part in ([3, 1], [6], [2, 2, 2])]
    check(model, parts)
    assert all(
        gradient_L.any() for gradient_L in torch.autograd.grad(model.prefix_loss(parts), model.copying.parameters())
    )


def test_parts_drop_out_their_share_in_training() -> None:
    torch.manual_seed(0)
    model = TigerConfig(**(SMALL | {"dropout": 0.25, "num_layers": 0})).build(SIZES, 20)
    model.encoder.norm = torch.nn.Identity()  # type: ignore[assignment]
    states = model.encoder.packed([torch.ones(60, 7, 16), torch.ones(90, 5, 16)], [None, None])
    kept = torch.cat([states_BSD.flatten() for states_BSD in states])
    assert sorted(set(kept.tolist())) == pytest.approx([0, 1 / 0.75**2], rel=1e-3)
    assert (kept == 0).float().mean() == pytest.approx(1 - 0.75**2, abs=0.02)


def test_under_autocast_parts_are_read_in_float32() -> None:
    torch.manual_seed(0)
    cross = Attention(Shape(width=24, num_layers=1, num_heads=3, head_width=8, ff_width=32, dropout=0.0), cross=True)
    x_BTD, states = torch.randn(8, 4, 24), [torch.randn(3, 30, 24), torch.randn(5, 9, 24)]
    masks = [None, torch.zeros(5, 1, 1, 9)]
    exact = cross.cross_attention(x_BTD, Packed(states, masks), None)
    with torch.autocast("cpu", torch.bfloat16):
        together = cross.cross_attention(x_BTD, Packed(states, masks), None)
        each = zip(x_BTD.split([3, 5]), states, masks, strict=True)
        apart = torch.cat([cross.cross_attention(*part) for part in each])
    assert 0 < (together - exact).norm() < 0.95 * (apart - exact).norm()
