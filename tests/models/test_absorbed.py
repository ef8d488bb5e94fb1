"""Cross-attention to states beside that to the keys and values made of them."""

from dataclasses import replace

import pytest
import torch

from models.attention import Attention, Packed, Part, Shape, laid_out

SHAPE = Shape(width=24, num_layers=1, num_heads=3, head_width=8, ff_width=32, dropout=0.0)


@pytest.mark.parametrize("t5", [True, False])
@pytest.mark.parametrize("padded", [True, False])
def test_states_are_read_as_their_keys_and_values_are(t5: bool, padded: bool) -> None:
    torch.manual_seed(0)
    cross = Attention(replace(SHAPE, t5=t5), cross=True).double()
    x_BTD, source_BSD = torch.randn(4, 3, 24).double(), torch.randn(4, 9, 24).double()
    mask_B11S = torch.zeros(4, 1, 1, 9).double()
    mask_B11S[1, ..., 5:] = -torch.inf
    weights = torch.randn(4, 3, 24).double()
    found = []
    for absorbed in (True, False):
        x, source = x_BTD.clone().requires_grad_(), source_BSD.clone().requires_grad_()
        states = source if absorbed else cross.keys_values(source)
        read = cross.cross_attention(x, states, mask_B11S if padded else None)
        cross.zero_grad()
        (read * weights).sum().backward()
        found.append([read, x.grad, source.grad, *(weight.grad for weight in cross.parameters())])
    torch.testing.assert_close(*found)
    if padded:
        assert not found[0][2][1, 5:].any()


@pytest.mark.parametrize("parts", [1, 2])
def test_weights_are_dropped_as_often(parts: int) -> None:
    cross = Attention(replace(SHAPE, dropout=0.5), cross=True)
    source_BSD = torch.zeros(100, 50, 24)
    source_BSD[..., 0] = 1.0
    with torch.no_grad():
        cross.out.weight.copy_(torch.eye(24))
        cross.fused.weight[24:, 0] = 1.0
        source = source_BSD if parts == 1 else Packed(source_BSD.split([30, 70]), [None, None])
        shares = torch.stack([cross.cross_attention(torch.zeros(100, 2, 24), source, None) for _ in range(20)])
    assert shares.mean() == pytest.approx(1.0, abs=0.02)
    assert shares.std() == pytest.approx(50**-0.5, rel=0.1)


def test_weights_are_dropped_as_often_within_the_own_source() -> None:
    own = Attention(replace(SHAPE, dropout=0.5), cross=False)
    x_MD, parts = torch.zeros(5000, 24), [Part(30, 50, torch.zeros(1)), Part(70, 50, torch.zeros(1))]
    x_MD[:, 0] = 1.0
    with torch.no_grad():
        own.out.weight.copy_(torch.eye(24))
        own.q.weight.zero_()
        own.fused.weight[24:, 0] = 1.0
        shares_MD = own.packed_attention(x_MD, parts)
    assert shares_MD.mean() == pytest.approx(1.0, abs=0.02)
    assert shares_MD.std() == pytest.approx(50**-0.5, rel=0.1)


def test_a_bias_by_head_is_refused() -> None:
    cross = Attention(SHAPE, cross=True)
    with pytest.raises(RuntimeError, match="size"):
        cross.cross_attention(torch.zeros(2, 4, 24), torch.zeros(2, 9, 24), torch.zeros(2, 3, 1, 9))


def test_under_bfloat16_states_are_as_near_as_keys_and_values_are() -> None:
    torch.manual_seed(0)
    cross = Attention(SHAPE, cross=True)
    x_BTD, source_BSD = torch.randn(8, 4, 24), torch.randn(8, 30, 24)
    exact = cross.cross_attention(x_BTD, source_BSD, None)
    with torch.autocast("cpu", torch.bfloat16):
        errors = [
            (cross.cross_attention(x_BTD, source, None) - exact).norm()
            for source in (source_BSD, cross.keys_values(source_BSD))
        ]
    assert errors[0] < 1.5 * errors[1]


def test_keys_and_values_that_are_kept_hold_no_other_memory() -> None:
    cross = Attention(SHAPE, cross=True)
    for kept in laid_out(*cross.keys_values(torch.randn(2, 5, 24))):
        assert kept.untyped_storage().nbytes() == kept.nbytes
