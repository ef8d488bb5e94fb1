"""What codes of the history have more, against a slow twin, and what is learnt of it.

Legend: X targets, B users, T items of a history, L levels, V codes, N items, K beams."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from models.configs import CausalConfig, Content, GlassConfig, SidlightConfig, TigerConfig
from models.copying import Copying
from models.next_item import before
from sid.decode import beam_search
from sid.tokens import PAD, TokenSpace
from sid.trie import Trie
from tests.models.tiny_causal import both_forms, last_of, sequences, tiny
from tests.models.tiny_copying import numbered, slow_added

SIZES = (4, 3, 3)
ALL_NL = torch.cartesian_prod(*(torch.arange(size) for size in SIZES))


def copying(codes_NL: Tensor, new_N: Tensor | None = None) -> Copying:
    return numbered(Copying(TokenSpace(SIZES), codes_NL, new_N))


@settings(max_examples=60, deadline=None)
@given(st.data())
@torch.no_grad()
def test_logits_get_what_a_slow_twin_adds(data: st.DataObject) -> None:
    numbers = data.draw(st.lists(st.integers(0, len(ALL_NL) - 1), min_size=1, max_size=20, unique=True))
    codes_NL = ALL_NL[numbers]
    catalog, module, tokens = codes_NL.tolist(), copying(codes_NL), TokenSpace(SIZES)
    item = st.integers(0, len(catalog) - 1)
    histories = data.draw(st.lists(st.lists(item, max_size=5), min_size=1, max_size=3))
    targets = data.draw(st.lists(item, min_size=len(histories), max_size=len(histories)))
    tokens_XTL = torch.full((len(histories), 5, 3), PAD)
    for row, history in enumerate(histories):
        tokens_XTL[row, : len(history)] = tokens.encode(codes_NL[history].view(-1, 3))
    added = module.taught(module.beginnings(tokens_XTL), codes_NL[targets])
    for row, (history, target) in enumerate(zip(histories, targets, strict=True)):
        for level in range(3):
            expected = slow_added(SIZES[level], catalog, [catalog[i] for i in history], catalog[target][:level])
            torch.testing.assert_close(added[level][row], torch.tensor(expected))


@torch.no_grad()
def test_a_beam_takes_the_beginnings_of_its_parent_along() -> None:
    module, tokens = copying(ALL_NL), TokenSpace(SIZES)
    past = module.beginnings(tokens.encode(torch.tensor([[[0, 1, 2], [3, 1, 0], [0, 2, 2]]])))
    past = past.written(0, torch.tensor([[0, 3, 1]]), torch.tensor([[0, 0, 0]]))
    assert past.alike_BKT.tolist() == [[[True, False, True], [False, True, False], [False] * 3]]
    assert module.added(1, past)[0].tolist() == [[0.0, 2.0, 2.0], [0.0, 2.0, 0.0], [0.0] * 3]
    past = past.written(1, torch.tensor([[1, 2, 1, 0]]), torch.tensor([[1, 0, 2, 1]]))
    assert past.alike_BKT.tolist() == [[[False, True, False], [False, False, True], [False] * 3, [False] * 3]]
    torch.testing.assert_close(module.added(2, past)[0, :2], torch.tensor([[30.0, 0.0, 0.0], [0.0, 0.0, 30.0]]))


@torch.no_grad()
def test_training_knows_nothing_of_new_items() -> None:
    """Beside (0, 1, 2) there is a new item, that begins with (0, 1), too."""
    tokens, codes_NL = TokenSpace(SIZES), torch.tensor([[0, 1, 2], [0, 2, 0], [0, 1, 1]])
    module = copying(codes_NL, torch.tensor([False, False, True]))
    history_BTL = tokens.encode(codes_NL[None, :1])
    for training, expected in ((True, [0.0, 20.0, 0.0]), (False, [0.0, 2.0, 0.0])):
        past = module.train(training).beginnings(history_BTL).written(0, torch.tensor([[0]]))
        assert module.added(1, past)[0, 0].tolist() == expected


@pytest.mark.parametrize("kind", [CausalConfig, SidlightConfig, TigerConfig, GlassConfig])
def test_every_model_that_copies_is_told_of_new_items(kind: type[TigerConfig]) -> None:
    codes_NL, new_N = torch.tensor([[0, 1, 2], [0, 2, 0], [0, 1, 1]]), torch.tensor([False, False, True])
    model = kind(copies=True).build(SIZES, 5, Content(codes_NL, np.eye(3, dtype=np.float32), new_N))
    assert model.copying is not None
    assert model.copying.learnt_N.tolist() == copying(codes_NL, new_N).learnt_N.tolist()
    assert model.copying.learnt_N.tolist() != model.copying.alone_N.tolist()
    with pytest.raises(ValueError, match="codes"):
        kind(copies=True).build(SIZES, 5)


def test_tables_move_with_the_model_and_are_no_weights() -> None:
    module = copying(ALL_NL, torch.arange(len(ALL_NL)) == 3)
    assert set(module.state_dict()) == {"more", "again"}
    module.double()
    assert not any(t.is_floating_point() for t in (module.alone_N, module.learnt_N, module.trie.leaf_item))
    module.to("meta")
    assert all(t.is_meta for t in (module.alone_N, module.learnt_N, module.trie.leaf_item))


@both_forms
@torch.no_grad()
def test_what_is_added_for_a_target_knows_nothing_of_it_or_of_what_is_later(form: str) -> None:
    """For its first code, as for the others its codes before are told."""
    model, plain = tiny(form), tiny(form, copies=False)
    tokens_BS = sequences(model, [5])

    def added(tokens_BS: Tensor) -> Tensor:
        given = [(tokens_BS, torch.tensor([[False, True, True, True, True]]))]
        return model.target_logits(given)[0][0] - plain.target_logits(given)[0][0]

    before_XV = added(tokens_BS)
    assert (before_XV.abs().amax(1) > 0.5).all()
    for item in range(1, 5):
        changed_BS = tokens_BS.clone()
        changed_BS[0, 3 * item] = 2 + (changed_BS[0, 3 * item] - 2 + 1) % 5
        differs_X = (added(changed_BS) - before_XV).abs().amax(1) > 1e-4
        assert not differs_X[:item].any()


def test_histories_of_several_parts_are_what_is_before_their_targets() -> None:
    value_BT, other_BT = torch.arange(1, 7).view(2, 3), torch.tensor([[7, 8]])
    places = [torch.tensor([[True, False, True], [False, True, False]]), torch.tensor([[False, True]])]
    expected = [[0, 0, 0], [1, 2, 0], [4, 0, 0], [7, 0, 0]]
    assert before([value_BT, other_BT], places, nothing=0).tolist() == expected
    deep = [torch.stack([x_BT, 10 * x_BT], dim=2) for x_BT in (value_BT, other_BT)]
    assert before(deep, places, nothing=0).tolist() == [[[x, 10 * x] for x in row] for row in expected]


@both_forms
@torch.no_grad()
def test_numbers_of_nothing_change_nothing_and_without_them_there_are_none(form: str) -> None:
    model, plain = tiny(form), tiny(form, copies=False)
    assert plain.copying is None and not [name for name in plain.state_dict() if "copying" in name]
    assert model.copying is not None
    given = [
        (sequences(model, [5, 3]), torch.tensor([[False, True, True, True, True], [False, True, True] + 2 * [False]]))
    ]
    assert model.window_loss(given) != plain.window_loss(given)
    for number_L in model.copying.parameters():
        number_L.zero_()
    assert torch.equal(model.window_loss(given), plain.window_loss(given))


@both_forms
@pytest.mark.parametrize("again", [False, True])
def test_training_finds_out_whether_items_come_again(form: str, again: bool) -> None:
    """Pairs of items with the first code in common, and users who have the other one of a pair next, or the same. Told
    the first code, both are as likely to a model that knows no user: which one it is is for the numbers to tell."""
    torch.manual_seed(0)
    codes_NL = torch.tensor([[pair, side] for pair in range(6) for side in range(2)])
    sizes = {"width": 8, "num_layers": 1, "depth_layers": 1, "num_heads": 1, "head_width": 8, "ff_width": 8}
    model = CausalConfig(form, **sizes, copies=True).build((6, 2), 2, Content(codes_NL))
    for parameter in model.parameters():
        parameter.requires_grad = False
    assert model.copying is not None
    model.copying.requires_grad_(True)
    next_N = torch.arange(12) if again else torch.arange(12).view(6, 2).flip(1).flatten()
    tokens_BS = model.tokens.encode(torch.stack([codes_NL, codes_NL[next_N]], dim=1)).flatten(1)
    target_BT = last_of(2).expand(12, -1)
    optimizer = torch.optim.Adam(model.copying.parameters(), lr=0.02)
    for _ in range(30):
        optimizer.zero_grad()
        model.window_loss([(tokens_BS, target_BT)]).backward()
        optimizer.step()
    more_L, again_L = model.copying.more, model.copying.again
    assert more_L[0] > 0.1 and more_L[1] == again_L[0] == 0
    assert again_L[1] > 0.1 if again else again_L[1] < -0.1
    model.eval()
    history_BS = model.tokens.encode(codes_NL)
    best_B = beam_search(model, model.begin(history_BS), Trie.from_codes(codes_NL), 3).items_BK[:, 0]
    assert torch.equal(best_B, next_N)
