"""Legend: B users, S tokens, T items, X targets, L levels, P places (T L), V codes, N items, K beams, H heads, E head
width, D width."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from models.attention import Attention, KeysValues, Shape, Shared, attend
from models.causal import Causal
from models.configs import CausalConfig
from sid.decode import beam_search
from sid.tokens import BOS, PAD
from sid.trie import Trie

SIZES = (5, 4, 3)
EVERY_NL = torch.cartesian_prod(*(torch.arange(size) for size in SIZES))
MAX_ITEMS = 6
both_forms = pytest.mark.parametrize("form", ["flat", "item"])
with_and_without_users = pytest.mark.parametrize("num_user_tokens", [0, 7])


def tiny(form: str, **changes: Any) -> Causal:
    """A small model in double precision, with inputs so large that each of them matters."""
    torch.manual_seed(0)
    sizes: dict[str, Any] = {"width": 16, "num_layers": 2, "num_heads": 2, "head_width": 8, "ff_width": 32}
    sizes["depth_dropout"] = 0.0
    model = CausalConfig(form, **(sizes | changes)).build(SIZES, MAX_ITEMS).double().eval()
    with torch.no_grad():
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


def sequences(model: Causal, lengths: list[int]) -> Tensor:
    """(B, S) tokens of so many random items a row."""
    items_BT = torch.randint(0, len(EVERY_NL), (len(lengths), max(lengths)))
    behind_BT = torch.arange(max(lengths)) >= torch.tensor(lengths)[:, None]
    return opened(model, model.tokens.encode(EVERY_NL[items_BT]).masked_fill(behind_BT[..., None], PAD))


def bare(tokens_S: Tensor) -> Tensor:
    """(1, S): the row without its padding."""
    return tokens_S[tokens_S != PAD][None]


def followed(model: Causal, tokens_1S: Tensor, codes_NL: Tensor) -> Tensor:
    """(N, S + L): the row once with each of the items behind it."""
    return torch.cat([tokens_1S.expand(len(codes_NL), -1), model.tokens.encode(codes_NL)], dim=1)


def last_of(length: int) -> Tensor:
    return torch.arange(length) == length - 1


def states(model: Causal, tokens_BS: Tensor) -> Tensor:
    """(B, P, D) the states before every code of every item."""
    start_B1, items_BTL = model.split(tokens_BS, targets=1)
    target_BT = torch.ones(items_BTL.shape[:2], dtype=torch.bool)
    return model.target_states(start_B1, items_BTL, target_BT).view(len(tokens_BS), -1, model.embedding.shape[1])


def differ(one_PD: Tensor, other_PD: Tensor) -> list[bool]:
    return ((one_PD - other_PD).abs() > 1e-9).any(-1).tolist()


@both_forms
@with_and_without_users
@torch.no_grad()
def test_a_changed_code_changes_all_later_states_and_no_earlier_one(form: str, num_user_tokens: int) -> None:
    model = tiny(form, num_user_tokens=num_user_tokens)
    lead = min(num_user_tokens, 1)
    tokens_BS = sequences(model, [5])
    before_BPD = states(model, tokens_BS)
    assert before_BPD.shape == (1, 15, 16)
    for place in range(15):
        changed_BS = tokens_BS.clone()
        low, size = model.tokens.offsets[place % 3], SIZES[place % 3]
        changed_BS[0, lead + place] = low + (changed_BS[0, lead + place] - low + 1) % size
        after_BPD = states(model, changed_BS)
        assert differ(before_BPD[0], after_BPD[0]) == [later > place for later in range(15)]


@both_forms
@torch.no_grad()
def test_the_user_token_or_bos_opens_a_sequence_and_reaches_every_state(form: str) -> None:
    model = tiny(form, num_user_tokens=7)
    tokens_BS = sequences(model, [4])
    start_B1, items_BTL = model.split(tokens_BS, targets=1)
    assert start_B1.tolist() == [[int(model.tokens.user(torch.tensor(0)))]]
    assert torch.equal(items_BTL.flatten(1), tokens_BS[:, 1:])
    other_BS = tokens_BS.clone()
    other_BS[:, 0] = model.tokens.user(torch.tensor(1))
    assert all(differ(states(model, tokens_BS)[0], states(model, other_BS)[0]))

    model = tiny(form)
    tokens_BS = sequences(model, [4, 2])
    assert model.split(tokens_BS, targets=1)[0].tolist() == [[BOS], [BOS]]
    before_PD = states(model, tokens_BS)[0]
    model.embedding[BOS] += 1
    assert all(differ(before_PD, states(model, tokens_BS)[0]))


@both_forms
@with_and_without_users
@torch.no_grad()
def test_loss_is_the_window_loss_of_the_target_behind_the_history(form: str, num_user_tokens: int) -> None:
    model = tiny(form, num_user_tokens=num_user_tokens)
    tokens_BS = sequences(model, [1, 4, MAX_ITEMS])
    codes_BL = EVERY_NL[[3, 40, 59]]
    expected = [
        model.window_loss(followed(model, bare(tokens_S), codes_L[None]), last_of(length + 1)[None])
        for tokens_S, codes_L, length in zip(tokens_BS, codes_BL, [1, 4, MAX_ITEMS], strict=True)
    ]
    torch.testing.assert_close(model.loss(tokens_BS, codes_BL), torch.stack(expected).mean())


@both_forms
@with_and_without_users
@torch.no_grad()
def test_window_loss_is_the_mean_loss_of_its_targets_after_their_prefixes(form: str, num_user_tokens: int) -> None:
    model = tiny(form, num_user_tokens=num_user_tokens)
    lead = min(num_user_tokens, 1)
    lengths, firsts = [5, 2, MAX_ITEMS + 1], [1, 1, 4]
    tokens_BS = sequences(model, lengths)
    place_T = torch.arange(MAX_ITEMS + 1)
    target_BT = torch.stack([(place_T >= f) & (place_T < n) for f, n in zip(firsts, lengths, strict=True)])
    losses = []
    for tokens_S, first, length in zip(tokens_BS, firsts, lengths, strict=True):
        for target in range(first, length):
            end = lead + 3 * target
            codes_1L = model.tokens.decode(tokens_S[None, end : end + 3])
            losses.append(model.loss(tokens_S[None, :end], codes_1L))
    assert len(losses) == 4 + 1 + 3
    torch.testing.assert_close(model.window_loss(tokens_BS, target_BT), torch.stack(losses).mean())


@both_forms
@with_and_without_users
@torch.no_grad()
def test_padding_changes_nothing(form: str, num_user_tokens: int) -> None:
    model = tiny(form, num_user_tokens=num_user_tokens)
    tokens_BS = sequences(model, [3])
    padded_BS = torch.nn.functional.pad(tokens_BS, (0, 6), value=PAD)
    codes_BL = EVERY_NL[[17]]
    torch.testing.assert_close(model.loss(padded_BS, codes_BL), model.loss(tokens_BS, codes_BL))
    target_BT = torch.tensor([[False, True, True]])
    padded_BT = torch.nn.functional.pad(target_BT, (0, 2))
    torch.testing.assert_close(model.window_loss(padded_BS, padded_BT), model.window_loss(tokens_BS, target_BT))
    tree = Trie.from_codes(EVERY_NL)
    one, other = (beam_search(model, model.begin(t_BS), tree, 7) for t_BS in (tokens_BS, padded_BS))
    assert torch.equal(one.items_BK, other.items_BK)
    torch.testing.assert_close(one.scores_BK, other.scores_BK)


@both_forms
@pytest.mark.parametrize("tied", [True, False])
@torch.no_grad()
def test_the_output_weights_are_the_embeddings_or_others(form: str, tied: bool) -> None:
    model = tiny(form, tied=tied)
    weight = model.embedding if tied else model.output
    assert weight is not None and (model.output is None) == tied
    states_BD = torch.randn(4, 16, dtype=torch.double)
    for level, size in enumerate(SIZES):
        first = 2 + sum(SIZES[:level])  # behind PAD and BOS
        expected_BV = torch.stack([states_BD @ weight[first + code] for code in range(size)], dim=1)
        torch.testing.assert_close(model.logits(states_BD, level), expected_BV)


@both_forms
def test_only_training_smooths_the_labels(form: str) -> None:
    """(1 - share) of the target's loss, and the share of the mean loss of all codes of the level."""
    model = tiny(form, label_smoothing=0.3, dropout=0.0)
    tokens_BS = sequences(model, [4])
    target_BT = torch.tensor([[False, True, False, True]])
    start_B1, items_BTL = model.split(tokens_BS, targets=1)
    states_XLD = model.target_states(start_B1, items_BTL, target_BT)
    plain, smooth = [], []
    for states_LD, codes_L in zip(states_XLD, model.tokens.decode(items_BTL[target_BT]), strict=True):
        for level, code in enumerate(codes_L):
            loss_V = -model.logits(states_LD[level], level).log_softmax(-1)
            plain.append(loss_V[code])
            smooth.append(0.7 * loss_V[code] + 0.3 * loss_V.mean())
    expected_plain, expected_smooth = (torch.stack(losses).mean().float() for losses in (plain, smooth))
    assert expected_plain != expected_smooth
    torch.testing.assert_close(model.window_loss(tokens_BS, target_BT), expected_plain)
    torch.testing.assert_close(model.train().window_loss(tokens_BS, target_BT), expected_smooth)


@both_forms
def test_training_hides_the_stated_share_of_items_and_nothing_else_does(form: str) -> None:
    items_BTL = torch.zeros(300, 100, 3)
    model = tiny(form, item_dropout=0.3)
    assert model.kept(items_BTL) is None
    kept_BT = model.train().kept(items_BTL)
    assert kept_BT is not None and kept_BT.shape == (300, 100)
    assert kept_BT.double().mean() == pytest.approx(0.7, abs=0.02)
    assert tiny(form).train().kept(items_BTL) is None


def hide(model: Causal, monkeypatch: pytest.MonkeyPatch, hidden: list[int]) -> None:
    """Lets training hide these items of every row."""

    def kept(items_BTL: Tensor) -> Tensor:
        kept_BT = torch.ones(items_BTL.shape[:2], dtype=torch.bool)
        kept_BT[:, [item for item in hidden if item < items_BTL.shape[1]]] = False
        return kept_BT

    monkeypatch.setattr(model, "kept", kept)


@both_forms
@torch.no_grad()
def test_with_no_item_hidden_the_states_are_those_without_item_dropout(
    form: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny(form)
    tokens_BS = sequences(model, [5, 3])
    expected_BPD = states(model, tokens_BS)
    hide(model, monkeypatch, [])
    torch.testing.assert_close(states(model, tokens_BS), expected_BPD)


@both_forms
@torch.no_grad()
def test_a_hidden_item_shows_in_its_own_later_codes_and_in_no_later_item(
    form: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny(form)
    tokens_BS = sequences(model, [5])
    hide(model, monkeypatch, [2])
    before_BPD = states(model, tokens_BS)
    for level, size in enumerate(SIZES):
        changed_BS = tokens_BS.clone()
        place, low = 2 * 3 + level, model.tokens.offsets[level]
        changed_BS[0, place] = low + (changed_BS[0, place] - low + 1) % size
        own = [place < later < 9 for later in range(15)]
        assert differ(before_BPD[0], states(model, changed_BS)[0]) == own


@both_forms
@torch.no_grad()
def test_an_item_that_is_not_hidden_is_seen_by_all_later_ones(form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny(form)
    tokens_BS = sequences(model, [5])
    hide(model, monkeypatch, [0, 2, 3])
    before_BPD = states(model, tokens_BS)
    changed_BS = tokens_BS.clone()
    changed_BS[0, 3] = 2 + (changed_BS[0, 3] - 2 + 1) % 5  # the first code of item 1
    assert differ(before_BPD[0], states(model, changed_BS)[0]) == [later > 3 for later in range(15)]


def slow_scores(model: Causal, tokens_S: Tensor, codes_NL: Tensor, constrained: bool) -> Tensor:
    """The slow twin of decoding: every item written behind the user's own history and scored code by code. Constrained,
    a softmax runs over the codes alone that some item has after the same prefix."""
    whole_NS = followed(model, bare(tokens_S), codes_NL)
    start_N1, items_NTL = model.split(whole_NS, targets=1)
    target_NT = last_of(items_NTL.shape[1]).expand(len(codes_NL), -1)
    states_NLD = model.target_states(start_N1, items_NTL, target_NT)
    items = [tuple(codes) for codes in codes_NL.tolist()]
    scores = []
    for states_LD, codes in zip(states_NLD, items, strict=True):
        score = torch.zeros((), dtype=torch.double)
        for level, code in enumerate(codes):
            logits_V = model.logits(states_LD[level], level)
            allowed = sorted({c[level] for c in items if c[:level] == codes[:level]})
            over = allowed if constrained else list(range(SIZES[level]))
            score += logits_V[code] - logits_V[over].logsumexp(0)
        scores.append(score)
    return torch.stack(scores)


@both_forms
@pytest.mark.parametrize("constrained", [False, True])
@with_and_without_users
@settings(max_examples=8, deadline=None)
@given(seed=st.integers(0, 10**6), num_items=st.integers(1, 30))
@torch.no_grad()
def test_a_wide_beam_search_ranks_like_scoring_every_item(
    form: str, constrained: bool, num_user_tokens: int, seed: int, num_items: int
) -> None:
    model = tiny(form, num_user_tokens=num_user_tokens)
    torch.manual_seed(seed)
    codes_NL = EVERY_NL[torch.randperm(len(EVERY_NL))[:num_items]]
    tokens_BS = sequences(model, [1, 3, MAX_ITEMS])
    found = beam_search(model, model.begin(tokens_BS), Trie.from_codes(codes_NL), 30, constrained)
    for user, tokens_S in enumerate(tokens_BS):
        scores_N, items_N = slow_scores(model, tokens_S, codes_NL, constrained).sort(descending=True)
        ours_N = found.scores_BK[user, :num_items].double()
        torch.testing.assert_close(ours_N, scores_N, atol=1e-4, rtol=1e-4)
        ties = (scores_N.diff() > -1e-4).any()
        assert ties or torch.equal(found.items_BK[user, :num_items], items_N)
    assert (found.items_BK[:, num_items:] == -1).all()


@both_forms
@pytest.mark.parametrize("constrained", [False, True])
@torch.no_grad()
def test_few_beams_score_their_items_as_many_do(form: str, constrained: bool) -> None:
    """Beams that are cut in between take the right parent's past along."""
    model = tiny(form)
    codes_NL = EVERY_NL[::2]
    tokens_BS = sequences(model, [5, 2])
    tree = Trie.from_codes(codes_NL)
    few = beam_search(model, model.begin(tokens_BS), tree, 4, constrained)
    for user, tokens_S in enumerate(tokens_BS):
        scores_N = slow_scores(model, tokens_S, codes_NL, constrained)
        ours_K = few.scores_BK[user].double()
        torch.testing.assert_close(ours_K, scores_N[few.items_BK[user]], atol=1e-4, rtol=1e-4)


SHAPE = Shape(width=16, num_layers=1, num_heads=2, head_width=8, ff_width=32, dropout=0.0, t5=False)
B, S, K = 3, 5, 4


def parents_in_order(num_beams: int, draw: torch.Generator) -> Tensor:
    return torch.arange(K).remainder(num_beams).expand(B, K)


def parents_at_random(num_beams: int, draw: torch.Generator) -> Tensor:
    return torch.randint(0, num_beams, (B, K), generator=draw)


@pytest.mark.parametrize("parents_of", [parents_in_order, parents_at_random])
@pytest.mark.parametrize("lengths", [None, [5, 1, 3]])
@torch.no_grad()
def test_attention_to_history_and_own_tokens_equals_one_attention_to_both(
    lengths: list[int] | None, parents_of: Callable[[int, torch.Generator], Tensor]
) -> None:
    """The slow twin holds the inputs of every beam and attends anew to all it may see, one beam at a time."""
    torch.manual_seed(0)
    draw = torch.Generator().manual_seed(1)
    attention = Attention(SHAPE, cross=False).double()
    history_BSD = torch.randn(B, S, 16, dtype=torch.double)
    _, key_BHSE, value_BHSE = attention.split(attention.fused(history_BSD))
    mask_B11S = None
    if lengths is not None:
        behind_BS = torch.arange(S) >= torch.tensor(lengths)[:, None]
        mask_B11S = torch.zeros(B, S, dtype=torch.double).masked_fill(behind_BS, -torch.inf)[:, None, None]
    history = Shared(key_BHSE, value_BHSE, mask_B11S)

    past: KeysValues | None = None
    own: list[list[list[Tensor]]] = [[[]] for _ in range(B)]  # user, beam: the inputs it has seen
    for step in range(4):
        parents_BK = None if step == 0 else parents_of(1 if step == 1 else K, draw)
        if parents_BK is not None:
            own = [[list(own[user][parent]) for parent in parents_BK[user].tolist()] for user in range(B)]
        x_BKD = torch.randn(B, len(own[0]), 16, dtype=torch.double)
        ours_BKD, past = attention.beam_attention(x_BKD, past, parents_BK, None, history)
        assert ours_BKD.shape == x_BKD.shape
        for user in range(B):
            for beam, inputs in enumerate(own[user]):
                inputs.append(x_BKD[user, beam])
                seen_1SD = torch.cat([history_BSD[user, : lengths[user] if lengths else S], torch.stack(inputs)])[None]
                query, key, value = attention.split(attention.fused(seen_1SD))
                expected = attention.merge(attend(query[:, :, -1:] / 8**0.5, key, value, None))
                torch.testing.assert_close(ours_BKD[user, beam], expected[0, 0])


@both_forms
def test_a_history_that_is_too_long_is_named(form: str) -> None:
    model = tiny(form)
    for call in (model.begin, lambda tokens_1S: model.loss(tokens_1S, torch.zeros(1, 3, dtype=torch.long))):
        call(sequences(model, [MAX_ITEMS]))
        with pytest.raises(ValueError, match="a history of 7 items, and the model was built for 6"):
            call(sequences(model, [MAX_ITEMS + 1]))


@both_forms
@torch.no_grad()
def test_a_look_inside_tells_which_codes_are_the_most_likely_after_those_before(form: str) -> None:
    model, codes_BL = tiny(form), EVERY_NL[[3, 0, 7]]
    tokens_BS = sequences(model, [4, 1, 2])
    inside = model.look_inside(tokens_BS, codes_BL)
    torch.testing.assert_close(inside.loss, model.loss(tokens_BS, codes_BL))
    right_BL = []
    for tokens_S, codes_L in zip(tokens_BS, codes_BL, strict=True):
        state, row = model.begin(tokens_S[None][:, tokens_S != PAD]), []
        for level in range(len(codes_L)):
            before = (None, None) if level == 0 else (codes_L[None, level - 1 : level], torch.zeros(1, 1, dtype=int))
            logp_11V, state = model.next_logp(state, level, *before)
            row.append(int(logp_11V.argmax()) == int(codes_L[level]))
        right_BL.append(row)
    assert inside.right_BL.tolist() == right_BL
    assert inside.found_B is inside.own_B is inside.gate_GB is None


@both_forms
def test_in_bf16_it_trains_and_ranks_about_as_in_fp32(form: str) -> None:
    model, tokens_BS = tiny(form).train(), sequences(tiny(form), [4, 1, 2])
    with torch.autocast("cpu", torch.bfloat16):
        loss = model.loss(tokens_BS, EVERY_NL[[3, 0, 7]])
    loss.backward()
    assert loss.dtype == torch.float32
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())
    with torch.no_grad():
        tree = Trie.from_codes(EVERY_NL)
        exact = beam_search(model.eval(), model.begin(tokens_BS), tree, 8)
        with torch.autocast("cpu", torch.bfloat16):
            half = beam_search(model, model.begin(tokens_BS), tree, 8)
    torch.testing.assert_close(half.scores_BK.float(), exact.scores_BK.float(), atol=0.1, rtol=0.05)
