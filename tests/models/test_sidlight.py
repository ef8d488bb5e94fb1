"""Sidlight beside the item form that it extends, and beside its own parts written out.

Legend: B rows, T items, X targets, N items of the catalogue, L levels, D width.
"""

import math
from copy import deepcopy

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from datamodules.batch import token_sequence
from models.configs import CausalConfig, Content, SidlightConfig
from models.item_softmax import item_logits, item_softmax
from models.neighbours import evened_out
from models.sidlight import Sidlight, as_small_as_embeddings
from sid.decode import FirstCodeGiven, beam_search, recommended
from sid.errors import UserError
from sid.table import SIDTable
from sid.vectors import centred

ITEMS, MAX_ITEMS = 30, 8
SIZES = {"width": 24, "num_layers": 2, "depth_layers": 1, "num_heads": 2, "head_width": 8, "ff_width": 32}


def table() -> SIDTable:
    return SIDTable.resolve(torch.randint(0, 4, (ITEMS, 2), generator=torch.Generator().manual_seed(0)), (4, 4))


def content() -> Content:
    return Content(table().codes_NL, np.random.default_rng(0).normal(size=(ITEMS, 6)).astype(np.float32))


def tiny(
    item_loss: float = 0.5,
    repeats: bool = True,
    known: Content | None = None,
    copies: bool = False,
    alike: int = 0,
) -> Sidlight:
    torch.manual_seed(0)
    config = SidlightConfig(
        **SIZES,  # type: ignore[arg-type]
        item_loss=item_loss,
        repeats=repeats,
        copies=copies,
        alike=alike,
    )
    model = config.build(table().codebook_sizes, MAX_ITEMS, known or content())
    assert isinstance(model, Sidlight)
    if model.again is not None:
        nn.init.constant_(model.again, -0.2)
    if model.likeness is not None:
        nn.init.uniform_(model.likeness, 0.1, 0.4)
    return model


def histories(*lengths: int, seed: int = 1) -> Tensor:
    items_BT = torch.randint(0, ITEMS, (len(lengths), max(lengths)), generator=torch.Generator().manual_seed(seed))
    return items_BT.masked_fill(torch.arange(max(lengths)) >= torch.tensor(lengths)[:, None], -1)


def tokens(model: Sidlight, items_BT: Tensor) -> Tensor:
    return token_sequence(items_BT, torch.zeros(len(items_BT)).long(), table().codes_NL, model.tokens)


def windows(model: Sidlight, items_BT: Tensor) -> tuple[Tensor, Tensor]:
    target_BT = items_BT >= 0
    target_BT[:, 0] = False
    return tokens(model, items_BT), target_BT


@pytest.mark.parametrize("copies", [False, True])
def test_without_items_of_its_own_it_is_the_item_form(copies: bool) -> None:
    model = tiny(copies=copies).eval()
    config = CausalConfig(**SIZES, copies=copies)  # type: ignore[arg-type]
    plain = config.build(table().codebook_sizes, MAX_ITEMS, content()).eval()
    with torch.no_grad():
        model.items.zero_(), model.content.weight.zero_()
        for number_L in model.copying.parameters() if model.copying else ():
            number_L.fill_(-0.2)
    plain.load_state_dict({name: w for name, w in model.state_dict().items() if name in plain.state_dict()})
    given = windows(model, histories(5, 3, 8))
    assert torch.equal(model.window_loss([given]), plain.window_loss([given]))


@pytest.mark.parametrize("alike", [0, 3])
def test_inputs_are_codes_content_and_the_item_itself(alike: int) -> None:
    model, items_BT = tiny(alike=alike), histories(4, 2)
    items_PL = tokens(model, items_BT).unflatten(1, (-1, table().num_levels)).flatten(0, 1)
    found_BTD = model.item_inputs(items_PL).unflatten(0, (2, -1))
    read_NE = centred(content().vectors_ND)
    vectors_NE = as_small_as_embeddings(evened_out(read_NE) if alike else read_NE)
    for row, place in ((0, 0), (0, 3), (1, 1)):
        item = int(items_BT[row, place])
        codes = sum(model.embedding[token] for token in model.tokens.encode(table().codes_NL[item]))
        slow_D = model.item(codes) + model.items[item] + model.content(vectors_NE[item])
        assert torch.allclose(found_BTD[row, place], slow_D, atol=1e-6)
    assert torch.equal(found_BTD[1, 2], found_BTD[1, 3]), "padding is told apart by nothing"


def test_the_item_loss_is_a_softmax_over_cosines_after_every_prefix() -> None:
    model, items_BT = tiny(item_loss=0.3), histories(5, 3)
    items_BT[0, 2] = items_BT[0, 3] = items_BT[0, 0]  # what is in a history twice counts once
    for part in (model.trunk, model.depth):
        part.eval()  # dropout aside, what is left of training is the item loss
    given = windows(model, items_BT)
    model.eval()
    codes_loss = model.window_loss([given])
    vectors_NE = as_small_as_embeddings(centred(content().vectors_ND))
    answers_ND = F.normalize(model.items + model.content(vectors_NE), dim=1)
    losses = []
    for row, length in enumerate((5, 3)):
        for place in range(1, length):
            before = model.split(tokens(model, items_BT[row : row + 1, :place]), targets=0)
            state_D = F.normalize(model.user_states([before])[0][0, -1], dim=0)
            had_N = torch.isin(torch.arange(ITEMS), items_BT[row, :place])
            losses.append(-((answers_ND @ state_D - 0.2 * had_N) / 0.07).log_softmax(0)[items_BT[row, place]])
    model.train()
    for part in (model.trunk, model.depth):
        part.eval()
    model.trunk.rate = model.depth.rate = 0.0
    for layer in (*model.trunk.layers, *model.depth.layers):
        layer.rate = 0.0
    assert torch.allclose(model.window_loss([given]), codes_loss + 0.3 * torch.stack(losses).mean(), atol=1e-5)


def test_parts_of_any_length_have_the_histories_of_all_their_targets() -> None:
    model, items_BT = tiny(), histories(2, 5, 4)
    whole_XT = model.histories([windows(model, items_BT)])
    parts_XT = model.histories([windows(model, items_BT[:1, :2]), windows(model, items_BT[1:])])
    assert torch.equal(parts_XT, whole_XT) and len(whole_XT) == 1 + 4 + 3
    assert whole_XT[0].tolist() == [items_BT[0, 0], -1, -1, -1, -1]
    assert whole_XT[-1].tolist() == [*items_BT[2, :3].tolist(), -1, -1]


def test_no_state_sees_a_later_item() -> None:
    model, items_BT = tiny().eval(), histories(6)
    other_BT = items_BT.clone()
    other_BT[0, 4] = (items_BT[0, 4] + 1) % ITEMS
    states, others = (
        model.user_states([model.split(tokens(model, items), targets=0)])[0] for items in (items_BT, other_BT)
    )
    assert torch.equal(states[:, :5], others[:, :5]) and not torch.equal(states[:, 5:], others[:, 5:])


@pytest.mark.parametrize("copies", [False, True])
def test_beams_score_items_as_teacher_forcing_does(copies: bool) -> None:
    model, items_BT = tiny(copies=copies).eval(), histories(7, 2)
    with torch.no_grad():
        for number_L in model.copying.parameters() if model.copying else ():
            number_L.fill_(-0.2)
        lists = beam_search(model, model.begin(tokens(model, items_BT)), table().trie, 5)
        assert lists.codes_BKL is not None
        for beam in range(5):
            loss = model.loss(tokens(model, items_BT)[:1], lists.codes_BKL[:1, beam])
            assert float(lists.scores_BK[0, beam]) == pytest.approx(-float(loss) * table().num_levels, abs=1e-4)


def test_a_score_is_that_of_the_codes_and_of_the_whole_item() -> None:
    model, items_BT = tiny().eval(), histories(7, 2, 5)
    with torch.no_grad():
        state = model.begin(tokens(model, items_BT))
        written, lists = (search(model, state, table().trie, ITEMS) for search in (beam_search, recommended))
        (states_BSD,) = model.user_states([model.split(tokens(model, items_BT), targets=0)])
        states_BD = states_BSD[[0, 1, 2], [7, 2, 5]]
        asked_BD, more = model.asked(states_BD, items_BT, None)
        whole_BN = item_logits(asked_BD, model.unit_items(), more)
    assert lists.codes_BKL is not None
    for row in range(3):
        items, logp = written.items_BK[row].tolist(), written.scores_BK[row].tolist()
        scores = {
            item: score + model.judge * float(whole_BN[row, item]) for item, score in zip(items, logp, strict=True)
        }
        order = sorted(scores, key=lambda item: -scores[item])
        assert lists.items_BK[row].tolist() == order
        assert lists.scores_BK[row].tolist() == pytest.approx([scores[item] for item in order], abs=1e-3)
        assert torch.equal(lists.codes_BKL[row], table().codes_NL[lists.items_BK[row]])


def test_whole_items_are_not_rounded_where_states_are() -> None:
    model, items_BT = tiny().eval(), histories(7)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        worth_BN = model.worth(model.begin(tokens(model, items_BT)))
    assert worth_BN.dtype == torch.float32
    assert (worth_BN != worth_BN.bfloat16().float()).float().mean() > 0.9


def test_what_items_are_worth_follows_the_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    """Items are projected once for weights that stay; a step of training, loading and moving make them anew."""
    items_BT, projections = histories(7, 4), []
    project = Sidlight.unit_items
    monkeypatch.setattr(Sidlight, "unit_items", lambda model: projections.append(1) or project(model))

    def worth(model: Sidlight) -> Tensor:
        return model.worth(model.begin(tokens(model, items_BT)))

    model, other = tiny().eval(), tiny().eval()
    before = worth(model)
    assert torch.equal(worth(model), before) and len(projections) == 1
    optimizer = torch.optim.AdamW(model.train().parameters(), lr=0.1, fused=True)
    model.window_loss([windows(model, items_BT)]).backward()
    optimizer.step()
    worth(other)
    other.load_state_dict(model.eval().state_dict())
    assert not torch.allclose(worth(model), before, atol=1e-2)
    torch.testing.assert_close(worth(other), worth(model))
    copied = deepcopy(model)
    worth(copied)
    copied.load_state_dict(tiny().state_dict())
    torch.testing.assert_close(worth(copied), before)
    torch.testing.assert_close(worth(model), worth(other))
    made = len(projections)
    torch.testing.assert_close(worth(model.double()).float(), worth(other))
    assert len(projections) == made + 1
    for module in (*model.modules(),):
        module.training = True  # as Lightning restores it, which tells nobody
    worth(model), worth(model)
    assert len(projections) == made + 3


@pytest.mark.parametrize("repeats", [False, True])
def test_neighbours_of_the_history_have_a_share_of_their_cosines_more(repeats: bool) -> None:
    model, history_XT = tiny(repeats=repeats, alike=4), torch.tensor([[3, 5, 3], [7, 2, -1], [-1, -1, -1]])
    assert model.likeness is not None
    states_XD, unit_NE = torch.randn(3, SIZES["width"]), F.normalize(evened_out(centred(content().vectors_ND)), dim=1)
    expected_XN = F.normalize(states_XD, dim=1) @ model.unit_items().T / 0.07
    for row, history in enumerate(([3, 5, 3], [7, 2], [])):
        for item in set(history) if repeats else ():
            expected_XN[row, item] += -0.2 / 0.07
        for back, item in enumerate(reversed(history)):
            cosine_N = unit_NE @ unit_NE[item]
            near = [other for other in cosine_N.argsort(descending=True).tolist() if other != item][:4]
            for other in near:
                expected_XN[row, other] += model.likeness[back] * cosine_N[other] / 0.07
    asked_XD, more = model.asked(states_XD, history_XT, model.neighbours())
    found_XN = item_logits(asked_XD, model.unit_items(), more)
    torch.testing.assert_close(found_XN, expected_XN, atol=1e-4, rtol=1e-4)


def test_neighbours_that_were_first_asked_for_in_a_test_in_bfloat16_are_good_for_training() -> None:
    model, other = tiny(alike=4), tiny(alike=4)
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        found = model.neighbours()
    expected = other.neighbours()
    assert found is not None and expected is not None and model.likeness is not None
    assert torch.equal(found.items_NK, expected.items_NK) and torch.equal(found.cosines_NK, expected.cosines_NK)
    model.train().window_loss([windows(model, histories(4, 3))]).backward()
    assert model.likeness.grad is not None and model.likeness.grad.any()


def test_it_learns_that_what_comes_next_is_like_the_last() -> None:
    vectors_ND = np.random.default_rng(0).normal(size=(ITEMS // 2, 6)).repeat(2, 0).astype(np.float32)
    vectors_ND += np.random.default_rng(1).normal(size=vectors_ND.shape, scale=0.05).astype(np.float32)
    model = tiny(known=Content(table().codes_NL, vectors_ND), alike=1).train()
    assert model.likeness is not None
    nn.init.zeros_(model.likeness)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    first_B3 = torch.stack([torch.randperm(ITEMS // 2)[:3] for _ in range(40)]) * 2
    given = windows(model, torch.stack([first_B3, first_B3 + 1], dim=2).flatten(1))
    for _ in range(20):
        optimizer.zero_grad()
        model.window_loss([given]).backward()
        optimizer.step()
    assert model.likeness[0] > 0.02 and model.likeness[6:].abs().max() == 0


@pytest.mark.parametrize("alike", [0, 5])
def test_training_knows_nothing_of_new_items_and_they_are_worth_their_content(alike: int) -> None:
    items_BT = histories(6, 4)
    new_N = ~torch.isin(torch.arange(ITEMS), items_BT) & (torch.arange(ITEMS) % 2 == 0)
    other = np.where(new_N.numpy()[:, None], np.float32(-3), content().vectors_ND)
    assert new_N.sum() > 3
    losses, models = [], []
    for vectors_ND in (content().vectors_ND, other):
        model = tiny(known=Content(table().codes_NL, vectors_ND, new_N), alike=alike).train()
        models.append(model)
        if alike:
            first = models[0]
            near, near_known, first_known = (
                model.neighbours(),
                model.neighbours(known=True),
                first.neighbours(known=True),
            )
            assert near is not None and near_known is not None and first_known is not None
            assert torch.allclose(model.vectors_NE[~new_N], first.vectors_NE[~new_N], atol=1e-7)
            assert torch.equal(near_known.items_NK[~new_N], first_known.items_NK[~new_N])
            assert new_N[near.items_NK].any() and not new_N[near_known.items_NK].any()
            model.lists[False] = first_known  # of the same cosines, but for rounding
        model.vectors_NE[~new_N] = models[0].vectors_NE[~new_N]  # but for `alike`, their centre is that of all
        for part in (*model.trunk.layers, *model.depth.layers, model.trunk, model.depth):
            part.rate = 0.0
        loss = model.window_loss([windows(model, items_BT)])
        loss.backward()
        assert model.items.grad is not None and not model.items.grad[new_N].any() and model.items.grad[~new_N].any()
        losses.append(loss.item())
    assert losses[0] == losses[1]
    assert tiny().train().window_loss([windows(model, items_BT)]).item() != losses[0]
    model.eval()
    with torch.no_grad():
        state = model.begin(tokens(model, items_BT))
        asked_BD, more = model.asked(state.user_BD, items_BT, model.neighbours())
        alone_ND = F.normalize(model.content(model.vectors_NE), dim=1)
        worth_BN = model.worth(state)
    whole_BN = item_logits(asked_BD, alone_ND, more)
    assert torch.allclose(worth_BN[:, new_N], model.judge * whole_BN[:, new_N], atol=1e-4)


def test_told_the_first_code_it_finds_no_less() -> None:
    model, items_BT = tiny().eval(), histories(*[5] * 40)
    target_B = torch.arange(40) % ITEMS
    with torch.no_grad():
        state = model.begin(tokens(model, items_BT))
        told = FirstCodeGiven(model, table().codes_NL[target_B, 0])
        plain, best = (recommended(asked, state, table().trie, 30) for asked in (model, told))
    for row, target in enumerate(target_B.tolist()):
        ours, theirs = plain.items_BK[row].tolist(), [item for item in best.items_BK[row].tolist() if item >= 0]
        assert theirs == [item for item in ours if table().codes_NL[item, 0] == table().codes_NL[target, 0]]


def test_places_without_an_item_stay_last() -> None:
    model = tiny().eval()
    with torch.no_grad():
        lists = recommended(model, model.begin(tokens(model, histories(3))), table().trie, ITEMS + 5)
    assert (lists.items_BK[0, :ITEMS] >= 0).all() and (lists.items_BK[0, ITEMS:] == -1).all()
    assert (lists.scores_BK[0, ITEMS:] == -torch.inf).all()


def test_it_learns_users_by_heart() -> None:
    model, items_BT = tiny().train(), histories(*[6] * 20)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    torch.manual_seed(0)
    for _ in range(300):
        optimizer.zero_grad()
        model.window_loss([windows(model, items_BT)]).backward()
        optimizer.step()
    model.eval()
    lists = beam_search(model, model.begin(tokens(model, items_BT[:, :5])), table().trie, 5)
    assert (lists.items_BK[:, 0] == items_BT[:, 5]).float().mean() > 0.9


def test_tables_move_with_the_model_and_are_no_weights() -> None:
    model = tiny(alike=3)
    assert not {"vectors_NE", "trie", "near"} & {name.partition(".")[0] for name in model.state_dict()}
    near = model.neighbours()
    assert near is not None and near is model.neighbours(known=True) is model.neighbours()
    moved = model.double()
    again = moved.neighbours()
    assert again is not None and again is not near and torch.equal(again.items_NK, near.items_NK)
    assert moved.vectors_NE.dtype == torch.double and moved.trie.leaf_item.dtype == torch.int32
    assert torch.isfinite(moved.window_loss([windows(moved, histories(4, 3))]))


def test_mistakes() -> None:
    with pytest.raises(ValueError, match="codes and vectors"):
        SidlightConfig().build((4, 4), 8)
    with pytest.raises(UserError, match="model.judge=4.0: expected 0 with model.item_loss=0"):
        SidlightConfig(item_loss=0.0).check()
    infinite = tuple({name: math.inf} for name in ("judge", "item_loss", "temperature"))
    for change in (
        {"form": "flat"},
        {"item_loss": -1.0},
        {"temperature": 0.0},
        {"alike": -1},
        {"alike": 5, "item_loss": 0.0, "judge": 0.0},
        *infinite,
    ):
        with pytest.raises(UserError, match=f"model.{next(iter(change))}"):
            SidlightConfig(**change).check()  # type: ignore[arg-type]


@pytest.mark.parametrize("again", [False, True])
def test_it_learns_whether_items_come_again(again: bool) -> None:
    model = tiny().train()
    assert model.again is not None
    nn.init.zeros_(model.again)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    generator = torch.Generator().manual_seed(2)
    items_BT = torch.stack([torch.randperm(ITEMS, generator=generator)[:6] for _ in range(40)])
    if again:
        items_BT[:, 3:] = items_BT[:, :3].flip(1)
    given = windows(model, items_BT)
    for _ in range(20):
        optimizer.zero_grad()
        model.window_loss([given]).backward()
        optimizer.step()
    assert model.again.item() > 0.02 if again else model.again.item() < -0.02


def test_an_item_that_came_three_times_has_the_gradient_of_one() -> None:
    model, states_XD = tiny(), torch.randn(3, SIZES["width"])
    once_XT, often_XT = torch.tensor([[3, 5, -1, -1]] * 3), torch.tensor([[3, 5, 3, 3], [5, 3, 5, -1], [5, 5, 5, 3]])
    gradients = []
    for history_XT in (once_XT, often_XT):
        model.zero_grad()
        asked_XD, more = model.asked(states_XD, history_XT, None)
        item_softmax(asked_XD, model.unit_items(), torch.tensor([3, 5, 7]), more).backward()
        gradients.append({name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None})
    assert gradients[0].keys() == gradients[1].keys() >= {"again", "items"}
    assert all(torch.allclose(gradients[0][name], gradients[1][name], atol=1e-6) for name in gradients[0])


@pytest.mark.parametrize(("item_loss", "repeats"), [(0.0, True), (0.5, False)])
def test_what_is_not_learnt_is_no_parameter(item_loss: float, repeats: bool) -> None:
    model = tiny(item_loss, repeats).train()
    model.window_loss([windows(model, histories(5, 3))]).backward()
    assert model.again is None and "again" not in model.state_dict()
    assert tiny(0.0, alike=3).likeness is None
    assert all(parameter.grad is not None for parameter in model.parameters()), "DDP waits for every gradient"
