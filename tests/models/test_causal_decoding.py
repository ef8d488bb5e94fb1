"""A causal model asked behind a history: beam search and its attention against slow twins, and a look inside.

Legend: B users, S tokens, T items, L levels, V codes, N items, K beams, H heads, E head width, D width, G layers."""

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from models.attention import Attention, KeysValues, Shape, Shared, attend
from models.causal import Causal
from models.configs import CausalConfig
from models.copying import RATE
from sid.decode import beam_search
from sid.tokens import PAD
from sid.trie import Trie
from tests.models.tiny_causal import (
    EVERY_NL,
    MAX_ITEMS,
    SIZES,
    bare,
    both_forms,
    followed,
    last_of,
    sequences,
    tiny,
    with_and_without_users,
)


def added(model: Causal, codes_NL: Tensor, prefix: tuple[int, ...]) -> Tensor:
    """What the last code of a prefix has more for being of the history."""
    assert model.copying is not None
    alike = sum(tuple(codes[: len(prefix)]) == prefix for codes in codes_NL.tolist())
    number_L = model.copying.again if alike == 1 else model.copying.more
    return RATE * number_L[len(prefix) - 1]


def slow_scores(model: Causal, tokens_S: Tensor, codes_NL: Tensor, constrained: bool) -> Tensor:
    """The slow twin of decoding: every item written behind the user's own history and scored code by code, with what is
    added to codes of the history. Constrained, a softmax runs over the codes alone that some item has after the same
    prefix."""
    whole_NS = followed(model, bare(tokens_S), codes_NL)
    history = model.tokens.decode(model.split(bare(tokens_S), targets=0)[1])[0].tolist()
    target_NT = last_of(whole_NS.shape[1] // model.tokens.num_levels).expand(len(codes_NL), -1)
    states_NLD = model.depth_states(*model.before_targets([(whole_NS, target_NT)]))
    items = [tuple(codes) for codes in codes_NL.tolist()]
    scores = []
    for states_LD, codes in zip(states_NLD, items, strict=True):
        score = torch.zeros((), dtype=torch.double)
        for level, code in enumerate(codes):
            logits_V = model.logits(states_LD[level], level).clone()
            for copied in {past[level] for past in history if tuple(past[:level]) == codes[:level]}:
                logits_V[copied] += added(model, codes_NL, (*codes[:level], copied))
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
    torch.manual_seed(seed)
    codes_NL = EVERY_NL[torch.randperm(len(EVERY_NL))[:num_items]]
    model = tiny(form, codes_NL, num_user_tokens=num_user_tokens)
    torch.manual_seed(seed)
    tokens_BS = sequences(model, [1, 3, MAX_ITEMS], codes_NL)
    found = beam_search(model, model.begin(tokens_BS), Trie.from_codes(codes_NL), 30, constrained)
    for user, tokens_S in enumerate(tokens_BS):
        scores_N, items_N = slow_scores(model, tokens_S, codes_NL, constrained).sort(descending=True)
        ours_N = found.scores_BK[user, :num_items].double()
        torch.testing.assert_close(ours_N, scores_N, atol=1e-4, rtol=1e-4)
        ties = (scores_N.diff() > -1e-4).any()
        assert ties or torch.equal(found.items_BK[user, :num_items], items_N)
    assert (found.items_BK[:, num_items:] == -1).all()


@both_forms
@torch.no_grad()
def test_behind_a_user_who_is_not_known_it_ranks_as_it_scores(form: str) -> None:
    model = tiny(form, num_user_tokens=7)
    tokens_BS = sequences(model, [2, 4])
    tokens_BS[:, 0] = PAD
    logp_B1V, _ = model.next_logp(model.begin(tokens_BS), 0, None, None)
    for tokens_S, items, logp_1V in zip(tokens_BS, (2, 4), logp_B1V, strict=True):
        whole_1S = followed(model, tokens_S[None, : 1 + items * len(SIZES)], EVERY_NL[:1])
        logits, _ = model.target_logits([(whole_1S, last_of(items + 1)[None])])
        expected_V = logits[0][0].double().log_softmax(-1)
        torch.testing.assert_close(logp_1V[0].double(), expected_V, atol=1e-5, rtol=1e-5)
    right_BL = model.look_inside(tokens_BS, EVERY_NL[logp_B1V[:, 0].argmax(1) * 12]).right_BL
    assert right_BL[:, 0].all(), "the likeliest first codes"


@both_forms
@pytest.mark.parametrize("constrained", [False, True])
@torch.no_grad()
def test_few_beams_score_their_items_as_many_do(form: str, constrained: bool) -> None:
    """Beams that are cut in between take the right parent's past along."""
    codes_NL = EVERY_NL[::2]
    model = tiny(form, codes_NL)
    tokens_BS = sequences(model, [5, 2], codes_NL)
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


@both_forms
@torch.no_grad()
def test_codes_are_ranked_by_logits_that_are_not_rounded(form: str) -> None:
    """Of 400 logits in bfloat16 some would be equal."""
    torch.manual_seed(0)
    model = CausalConfig(form, width=16, num_layers=1, num_heads=2, head_width=8, ff_width=32).build((400, 3), 5).eval()
    tokens_BS, target_BT = torch.randint(2, 402, (2, 6)), last_of(3).expand(2, -1)
    with torch.autocast("cpu", torch.bfloat16):
        logp_BV = model.next_logp(model.begin(tokens_BS), 0, None, None)[0][:, 0]
        shown_BV = model.target_logits([(tokens_BS, target_BT)])[0][0]
    assert all(len(row_V.unique()) == 400 for row_V in (*shown_BV, *logp_BV))
