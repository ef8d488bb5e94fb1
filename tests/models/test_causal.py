"""What the states of a causal model see, and what it learns from them.

Legend: B users, S tokens, T items, X targets, L levels, P places (T L), V codes, N items, K beams, D width."""

import pytest
import torch
from torch import Tensor

from models.causal import Causal
from sid.decode import beam_search
from sid.tokens import BOS, PAD
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


def states(model: Causal, tokens_BS: Tensor) -> Tensor:
    """(B, P, D) the states before every code of every item."""
    items = tokens_BS.shape[1] // model.tokens.num_levels
    known, tokens_XL = model.before_targets([(tokens_BS, torch.ones(len(tokens_BS), items, dtype=torch.bool))])
    return model.depth_states(known, tokens_XL).view(len(tokens_BS), -1, model.embedding.shape[1])


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
        model.window_loss([(followed(model, bare(tokens_S), codes_L[None]), last_of(length + 1)[None])])
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
    torch.testing.assert_close(model.window_loss([(tokens_BS, target_BT)]), torch.stack(losses).mean())


@both_forms
@torch.no_grad()
def test_parts_of_any_length_have_the_loss_of_all_their_targets_together(form: str) -> None:
    model = tiny(form)
    tokens_BS, place_T = sequences(model, [5, 2, MAX_ITEMS + 1]), torch.arange(MAX_ITEMS + 1)
    target_BT = (place_T >= 1) & (place_T < torch.tensor([[5], [2], [MAX_ITEMS + 1]]))
    parts = [(tokens_BS[rows, : 3 * n], target_BT[rows, :n]) for rows, n in (([1], 2), ([0, 2], MAX_ITEMS + 1))]
    torch.testing.assert_close(model.window_loss(parts), model.window_loss([(tokens_BS, target_BT)]))


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
    torch.testing.assert_close(model.window_loss([(padded_BS, padded_BT)]), model.window_loss([(tokens_BS, target_BT)]))
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
    model = tiny(form, label_smoothing=0.3, dropout=0.0, copies=False)
    tokens_BS = sequences(model, [4])
    target_BT = torch.tensor([[False, True, False, True]])
    known, tokens_XL = model.before_targets([(tokens_BS, target_BT)])
    states_XLD = model.depth_states(known, tokens_XL)
    plain, smooth = [], []
    for states_LD, codes_L in zip(states_XLD, model.tokens.decode(tokens_XL), strict=True):
        for level, code in enumerate(codes_L):
            loss_V = -model.logits(states_LD[level], level).log_softmax(-1)
            plain.append(loss_V[code])
            smooth.append(0.7 * loss_V[code] + 0.3 * loss_V.mean())
    expected_plain, expected_smooth = (torch.stack(losses).mean().float() for losses in (plain, smooth))
    assert expected_plain != expected_smooth
    torch.testing.assert_close(model.window_loss([(tokens_BS, target_BT)]), expected_plain)
    torch.testing.assert_close(model.train().window_loss([(tokens_BS, target_BT)]), expected_smooth)


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
