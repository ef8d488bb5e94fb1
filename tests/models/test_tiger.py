"""Legend: B users, S source tokens, L levels, N items, K beams."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from models.attention import Attention, Shape, attend
from models.configs import CausalConfig, Content, TigerConfig
from models.hugging_face import to_hugging_face
from models.tiger import Tiger
from sid.decode import beam_search
from sid.errors import UserError
from sid.tokens import PAD
from sid.trie import Trie
from tests.models.tiny_copying import numbered, slow_added

SIZES = (7, 5, 3)
EVERY_NL = torch.cartesian_prod(*(torch.arange(size) for size in SIZES))


def tiny(catalog_NL: torch.Tensor | None = None) -> Tiger:
    """Given a catalogue, it copies."""
    torch.manual_seed(0)
    sizes = {"width": 16, "num_layers": 2, "num_heads": 2, "head_width": 8, "ff_width": 32, "num_user_tokens": 10}
    if catalog_NL is None:
        return TigerConfig(**sizes).build(SIZES, 20).eval()
    model = TigerConfig(**sizes, copies=True).build(SIZES, 20, Content(catalog_NL)).eval()
    assert model.copying is not None
    numbered(model.copying)
    return model


def histories(model: Tiger, lengths: list[int]) -> torch.Tensor:
    tokens_BS = torch.randint(2, model.tokens.size, (len(lengths), max(lengths)))
    return tokens_BS.masked_fill(torch.arange(max(lengths)) >= torch.tensor(lengths)[:, None], PAD)


@pytest.mark.parametrize(("lengths", "known"), [([40, 40], True), ([1, 13, 40], True), ([2, 13, 40], False)])
def test_logits_and_loss_equal_hugging_face_t5(lengths: list[int], known: bool) -> None:
    model = tiny()
    peer = to_hugging_face(model)
    tokens_BS = histories(model, lengths)
    if not known:
        tokens_BS[::2, 0] = PAD
    codes_BL = torch.stack([torch.randint(0, size, (len(lengths),)) for size in SIZES], dim=1)
    labels_BL = model.tokens.encode(codes_BL)
    theirs = peer(
        input_ids=tokens_BS,
        attention_mask=tokens_BS != PAD,
        decoder_input_ids=torch.nn.functional.pad(labels_BL[:, :-1], (1, 0), value=1),
        labels=labels_BL,
    )
    torch.testing.assert_close(model(tokens_BS, codes_BL), theirs.logits, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(model.loss(tokens_BS, codes_BL), theirs.loss, atol=1e-5, rtol=1e-5)


def test_padding_changes_nothing() -> None:
    model = tiny()
    tokens_BS = histories(model, [9])
    codes_BL = torch.tensor([[1, 2, 0]])
    padded = torch.nn.functional.pad(tokens_BS, (0, 6), value=PAD)
    torch.testing.assert_close(model(tokens_BS, codes_BL), model(padded, codes_BL))


def test_a_row_without_any_token_has_numbers_and_leaves_the_others_theirs() -> None:
    model = tiny()
    tokens_BS, codes_BL = histories(model, [9, 4]), torch.tensor([[1, 2, 0], [3, 1, 2]])
    with_none_CS = torch.cat([tokens_BS, torch.full_like(tokens_BS[:1], PAD)])
    found = model(with_none_CS, codes_BL[[0, 1, 0]])
    assert found.isfinite().all() and model.loss(with_none_CS, codes_BL[[0, 1, 0]]).isfinite()
    torch.testing.assert_close(found[:2], model(tokens_BS, codes_BL))
    torch.testing.assert_close(found[2:], model(tokens_BS[:1, :0], codes_BL[:1]))


def test_a_later_target_code_changes_no_earlier_logits() -> None:
    model = tiny()
    tokens_BS = histories(model, [9])
    one, other = model(tokens_BS, torch.tensor([[1, 2, 0]])), model(tokens_BS, torch.tensor([[1, 3, 1]]))
    torch.testing.assert_close(one[:, :2], other[:, :2])
    assert not torch.allclose(one[:, 2], other[:, 2])


def scores_of_every_item(model: Tiger, tokens_BS: torch.Tensor, codes_NL: torch.Tensor) -> torch.Tensor:
    """The slow twin of the beam search: the log-likelihood of every item, teacher-forced."""
    rows = []
    for tokens_S in tokens_BS:
        logp_NLW = model(tokens_S.expand(len(codes_NL), -1), codes_NL).log_softmax(-1)
        rows.append(logp_NLW.gather(2, model.tokens.encode(codes_NL)[..., None]).sum((1, 2)))
    return torch.stack(rows)


@pytest.mark.parametrize("copies", [False, True])
@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 10**6), num_items=st.integers(1, 60))
def test_a_wide_beam_search_ranks_like_scoring_every_item(copies: bool, seed: int, num_items: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    codes_NL = EVERY_NL[torch.randperm(len(EVERY_NL), generator=generator)[:num_items]]
    model = tiny(codes_NL if copies else None)
    tokens_BS = items_of(model, codes_NL, [0, 1, 4]) if copies else histories(model, [1, 5, 12])
    with torch.no_grad():
        best = beam_search(model, model.begin(tokens_BS), Trie.from_codes(codes_NL), num_beams=105)
        expected_BN = scores_of_every_item(model, tokens_BS, codes_NL).sort(descending=True)
    torch.testing.assert_close(best.scores_BK[:, :num_items], expected_BN.values, atol=1e-4, rtol=1e-4)
    gaps = (expected_BN.values.diff() < -1e-4).all()
    assert not gaps or torch.equal(best.items_BK[:, :num_items], expected_BN.indices)
    assert (best.items_BK[:, num_items:] == -1).all()
    assert (best.scores_BK[:, num_items:] == -torch.inf).all()


def items_of(model: Tiger, codes_NL: torch.Tensor, lengths: list[int]) -> torch.Tensor:
    """Histories of so many random items of a catalogue, each behind a user."""
    item_BT = torch.randint(0, len(codes_NL), (len(lengths), max(lengths)))
    tokens_BTL = model.tokens.encode(codes_NL[item_BT])
    tokens_BTL[torch.arange(max(lengths)) >= torch.tensor(lengths)[:, None]] = PAD
    return torch.cat([model.tokens.user(torch.arange(len(lengths)))[:, None], tokens_BTL.flatten(1)], dim=1)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10**6), num_items=st.integers(1, 60))
@torch.no_grad()
def test_a_tiger_that_copies_adds_to_its_logits_what_a_slow_twin_does(seed: int, num_items: int) -> None:
    torch.manual_seed(seed)
    codes_NL = EVERY_NL[torch.randperm(len(EVERY_NL))[:num_items]]
    model, plain = tiny(codes_NL), tiny()
    plain.load_state_dict(model.state_dict(), strict=False)
    torch.manual_seed(seed)
    tokens_BS, codes_BL = items_of(model, codes_NL, [0, 1, 4]), codes_NL[torch.randint(0, num_items, (3,))]
    added_BLW = torch.zeros(3, 3, model.tokens.size)
    for user, (tokens_S, codes) in enumerate(zip(tokens_BS, codes_BL.tolist(), strict=True)):
        known = model.tokens.decode(tokens_S[1:][tokens_S[1:] != PAD].view(-1, 3)).tolist()
        for level, size in enumerate(SIZES):
            own_V = slow_added(size, codes_NL.tolist(), known, codes[:level])
            added_BLW[user, level, model.tokens.level(level)] = torch.tensor(own_V)
    expected_BLW = plain(tokens_BS, codes_BL) + added_BLW
    torch.testing.assert_close(model(tokens_BS, codes_BL), expected_BLW, atol=1e-4, rtol=1e-4)
    assert torch.equal(model.right(expected_BLW, codes_BL), model.look_inside(tokens_BS, codes_BL).right_BL)


@torch.no_grad()
def test_what_copying_adds_is_not_rounded_to_bfloat16() -> None:
    model, plain = tiny(EVERY_NL), tiny()
    plain.load_state_dict(model.state_dict(), strict=False)
    assert model.copying is not None
    for number_L in model.copying.parameters():
        number_L.fill_(-0.8123)
    tokens_BS, codes_BL = items_of(model, EVERY_NL, [4]), EVERY_NL[:1]
    with torch.autocast("cpu", torch.bfloat16):
        added_BLW = model(tokens_BS, codes_BL) - plain(tokens_BS, codes_BL).float()
        (copied, _), (without, _) = (each.next_logp(each.begin(tokens_BS), 0, None, None) for each in (model, plain))
    steps_BV = (copied - without)[:, 0]
    for found in (added_BLW, steps_BV - steps_BV.amax()):
        assert (found < -1).any()
        torch.testing.assert_close(found, -8.123 * (found < -1), atol=1e-5, rtol=0)


@torch.no_grad()
def test_codes_are_ranked_by_logits_that_are_not_rounded() -> None:
    """Of 400 logits in bfloat16 some would be equal."""
    torch.manual_seed(0)
    model = TigerConfig(width=16, num_layers=1, num_heads=2, head_width=8, ff_width=32).build((400, 3), 20).eval()
    tokens_BS = histories(model, [9, 5])
    with torch.autocast("cpu", torch.bfloat16):
        logp_BV = model.next_logp(model.begin(tokens_BS), 0, None, None)[0][:, 0]
        shown_BV = model(tokens_BS, torch.zeros(2, 2, dtype=torch.long))[:, 0, model.tokens.level(0)]
        learnt_BLW = model.train()(tokens_BS, torch.zeros(2, 2, dtype=torch.long))
    assert all(len(row_V.unique()) == 400 for row_V in (*shown_BV, *logp_BV))
    assert learnt_BLW.dtype == torch.bfloat16


def test_attention_equals_torch() -> None:
    q, k, v, bias = torch.randn(2, 3, 4, 8), torch.randn(2, 3, 5, 8), torch.randn(2, 3, 5, 8), torch.randn(1, 3, 4, 5)
    expected = torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=bias, scale=1.0)
    torch.testing.assert_close(attend(q, k, v, bias), expected)


def test_attention_without_t5s_scaling_and_initialisation_is_torchs_own() -> None:
    shape = Shape(width=64, num_layers=1, num_heads=4, head_width=9, ff_width=64, dropout=0.0, t5=False)
    x_BTD, source_BSD, bias = torch.randn(2, 5, 64), torch.randn(2, 7, 64), torch.randn(1, 4, 5, 5)
    own, cross = Attention(shape, cross=False), Attention(shape, cross=True)
    query, key, value = own.split(own.project(x_BTD))
    expected = torch.nn.functional.scaled_dot_product_attention(query, key, value, attn_mask=bias)  # by 1 / sqrt(9)
    torch.testing.assert_close(own.self_attention(x_BTD, bias)[0], own.merge(expected))
    (query,), (key, value) = cross.split(cross.q(x_BTD)), cross.split(cross.fused(source_BSD))
    expected = torch.nn.functional.scaled_dot_product_attention(query, key, value)
    torch.testing.assert_close(cross.cross_attention(x_BTD, source_BSD, None), cross.merge(expected))
    for name, weight in [*own.named_parameters(), *cross.named_parameters()]:
        bound = weight.shape[1] ** -0.5
        assert weight.abs().max() <= bound, name
        assert weight.std().item() == pytest.approx(bound / 3**0.5, rel=0.05), name


def test_another_model_does_not_export() -> None:
    with pytest.raises(UserError, match="ItemCausal has no counterpart in Hugging Face"):
        to_hugging_face(CausalConfig().build(SIZES, 20))  # type: ignore[arg-type]
    with pytest.raises(UserError, match="a TIGER that copies"):
        to_hugging_face(tiny(EVERY_NL))
