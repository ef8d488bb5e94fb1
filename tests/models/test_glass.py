"""GLASS beside TIGER, its tier token, its gradients, its tables and its settings.

Legend: B users, S source tokens, T items of the long history, N items, L levels, W vocabulary, D width, G layers, A
first codes, X similar codes."""

from typing import Any

import numpy as np
import pytest
import torch

from models.configs import GlassConfig, TigerConfig
from models.hugging_face import to_hugging_face
from models.tiger import Tiger
from sid.decode import beam_search
from sid.errors import UserError
from sid.trie import Trie
from tests.models.tiny_glass import (
    FEW_SIZES,
    MOST,
    NUM_ITEMS,
    SIZES,
    catalogue,
    content_of,
    every_gate,
    same,
    tiers_of,
    tiny,
    users,
)


def test_without_tier_and_search_it_is_tiger_bit_for_bit() -> None:
    sizes: dict[str, Any] = FEW_SIZES | {"num_user_tokens": 3}
    torch.manual_seed(5)
    glass = GlassConfig(tier=False, search=False, **sizes).build(SIZES, 20, catalogue()).eval()
    torch.manual_seed(5)
    tiger = TigerConfig(**sizes).build(SIZES, 20).eval()
    assert type(glass) is Tiger and not GlassConfig(tier=False, search=False).reads_long
    assert [*glass.state_dict()] == [*tiger.state_dict()]
    assert all(torch.equal(one, other) for one, other in zip(glass.parameters(), tiger.parameters(), strict=True))
    tokens_BS, codes_NL = users(tiger).tokens_BS, content_of(tiger)
    assert torch.equal(glass(tokens_BS, codes_NL[:4]), tiger(tokens_BS, codes_NL[:4]))
    tree = Trie.from_codes(codes_NL)
    assert same(*(beam_search(model, model.begin(tokens_BS), tree, 10) for model in (glass, tiger)))


@every_gate
@pytest.mark.parametrize("width", [0, 3])
def test_with_nothing_to_find_it_is_the_tiger_of_its_weights_bit_for_bit(gate: str, width: int) -> None:
    model = tiny(tier=False, gate=gate, num_user_tokens=3)
    tiger = TigerConfig(**(FEW_SIZES | {"num_user_tokens": 3})).build(SIZES, 20).double().eval()
    keys = tiger.load_state_dict(model.state_dict(), strict=False)
    assert not keys.missing_keys
    assert {key.split(".")[-2 if key == "item.weight" else 3] for key in keys.unexpected_keys} <= {
        "found",
        "gate",
        "item",
    }
    tokens_BS, codes_NL = users(model).tokens_BS, content_of(model)
    nothing_BT = torch.full((len(tokens_BS), width), -1)
    assert torch.equal(model(tokens_BS, nothing_BT, codes_NL[:4]), tiger(tokens_BS, codes_NL[:4]))
    tree = Trie.from_codes(codes_NL)
    for constrained in (False, True):
        ours = beam_search(model, model.begin(tokens_BS, nothing_BT), tree, 10, constrained)
        assert same(ours, beam_search(tiger, tiger.begin(tokens_BS), tree, 10, constrained))


@every_gate
def test_a_row_that_finds_nothing_is_tigers_beside_rows_that_find_something(gate: str) -> None:
    model = tiny(tier=False, gate=gate, neighbours=0)
    tiger = TigerConfig(**(FEW_SIZES | {"num_user_tokens": 0})).build(SIZES, 20).double().eval()
    tiger.load_state_dict(model.state_dict(), strict=False)
    tokens_BS, codes_NL = users(model).tokens_BS, content_of(model)
    code = int(codes_NL[0, 0])
    own, other = (codes_NL[:, 0] == code).nonzero()[0, 0], (codes_NL[:, 0] != code).nonzero()[0, 0]
    long_BT = torch.tensor([[other, other], [other, own], [-1, -1], [own, -1]])
    codes_BL = codes_NL[:1].expand(4, -1)
    ours_BLW, tigers_BLW = model(tokens_BS, long_BT, codes_BL), tiger(tokens_BS, codes_BL)
    assert torch.equal(ours_BLW[[0, 2]], tigers_BLW[[0, 2]])
    assert torch.equal(ours_BLW[:, 0], tigers_BLW[:, 0])
    assert ((ours_BLW - tigers_BLW).abs().amax(2)[[1, 3], 1:] > 1e-3).all()


def test_nothing_is_found_for_codes_that_do_not_come() -> None:
    model = tiny((NUM_ITEMS + 1,))
    tokens_BS, codes_B1 = torch.randint(2, model.tokens.size, (2, 5)), torch.tensor([[3], [0]])
    inside = model.look_inside(tokens_BS, torch.randint(0, NUM_ITEMS, (2, 9)), codes_B1)
    assert model.gated_layers == 0 and inside.gate_GB is None and inside.loss.isfinite()


def test_padding_of_the_long_history_changes_nothing() -> None:
    model = tiny()
    tokens_BS, long_BT = users(model)
    codes_NL = content_of(model)
    wider_BT = torch.nn.functional.pad(long_BT, (4, 300), value=-1)
    assert torch.equal(model(tokens_BS, long_BT, codes_NL[:4]), model(tokens_BS, wider_BT, codes_NL[:4]))
    tree = Trie.from_codes(codes_NL)
    assert same(*(beam_search(model, model.begin(tokens_BS, x_BT), tree, 10) for x_BT in (long_BT, wider_BT)))


@torch.no_grad()
def test_rows_of_a_batch_do_not_influence_one_another() -> None:
    model = tiny()
    some, codes_NL = users(model), content_of(model)
    together_BLW, inside = model(*some, codes_NL[:4]), model.look_inside(*some, codes_NL[:4])
    assert inside.found_B is not None and inside.gate_GB is not None
    for user in range(4):
        alone = some.one(user), codes_NL[user : user + 1]
        torch.testing.assert_close(model(*alone[0], alone[1])[0], together_BLW[user])
        one = model.look_inside(*alone[0], alone[1])
        assert one.found_B is not None and one.gate_GB is not None
        assert torch.equal(one.found_B[0], inside.found_B[user])
        torch.testing.assert_close(one.gate_GB[:, 0], inside.gate_GB[:, user])


@every_gate
@pytest.mark.parametrize("tier", [True, False])
def test_gradients_reach_every_parameter(gate: str, tier: bool) -> None:
    model = tiny(gate=gate, tier=tier, dropout=0.1, num_user_tokens=3, copies=True).train()
    some = users(model, [30, 20, 30])
    model.loss(*some, content_of(model)[some.long_BT[:, 0]]).backward()
    names = {name.split(".")[0] for name, _ in model.named_parameters()}
    assert names == {"embedding", "encoder", "decoder", "item", "copying"} | ({"tier_token"} if tier else set())
    assert any(".found." in name for name, _ in model.named_parameters())
    assert any(".gate." in name for name, _ in model.named_parameters()) == (gate in ("vector", "scalar"))
    without = [name for name, weight in model.named_parameters() if weight.grad is None or not weight.grad.any()]
    assert without == []


@pytest.mark.parametrize("num_tiers", [4, 7])
def test_tiers_are_those_of_the_cosines_to_the_mean_vectors_of_the_first_codes(num_tiers: int) -> None:
    codes_NL, vectors_ND, _ = catalogue()
    edges = [-0.1, 0, 0.1] if num_tiers == 4 else [2 * tier / num_tiers - 1 for tier in range(1, num_tiers)]
    centred_ND = vectors_ND - vectors_ND.mean(0)
    tier_NA = tiers_of(tiny(num_tiers=num_tiers))
    for code in range(SIZES[0] - 1):
        mean_D = centred_ND[codes_NL[:, 0] == code].mean(0)
        cosine_N = centred_ND @ mean_D / np.linalg.norm(mean_D) / np.linalg.norm(centred_ND, axis=1)
        assert tier_NA[:, code].tolist() == np.digitize(cosine_N, edges).tolist()


@torch.no_grad()
def test_the_tier_token_tells_what_the_long_history_holds_and_not_in_which_order() -> None:
    model = tiny(search=False)
    tokens_BS, codes_BL = users(model, [12]).tokens_BS, content_of(model)[:1]
    long_BT = torch.arange(12)[None]
    before_LW = model(tokens_BS, long_BT, codes_BL)[0]
    assert torch.equal(model(tokens_BS, long_BT.flip(1), codes_BL)[0], before_LW)
    assert torch.equal(model(tokens_BS, long_BT.repeat(1, 2), codes_BL)[0], before_LW)
    changed_LW = model(tokens_BS, long_BT + 4, codes_BL)[0]
    assert ((changed_LW - before_LW).abs().amax(1) > 1e-3).all()


@pytest.mark.parametrize("changes", [{}, {"tier": False}, {"search": False}])
def test_a_checkpoint_holds_nothing_of_the_catalogues_size(changes: dict[str, Any]) -> None:
    model = tiny(**changes)
    assert [*model.state_dict()] == [name for name, _ in model.named_parameters()]
    torch.manual_seed(1)
    other = GlassConfig(**(FEW_SIZES | {"retrieved": MOST} | changes)).build(SIZES, 20, catalogue()).double().eval()
    other.load_state_dict(model.state_dict())
    arguments = *users(model), content_of(model)[:4]
    assert torch.equal(other(*arguments), model(*arguments))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"gate": "open"}, "model.gate=open: expected vector, scalar, fixed, sum"),
        ({"num_tiers": 0}, "model.num_tiers=0: expected at least 1"),
        ({"num_tiers": 256}, "model.num_tiers=256: expected at most 255"),
        ({"retrieved": 0}, "model.retrieved=0: expected at least 1"),
        ({"neighbours": -1}, "model.neighbours=-1: expected at least 0"),
        ({"few": -1}, "model.few=-1: expected at least 0"),
        ({"width": 0}, "model.width=0: expected at least 1"),
        ({"dropout": 1.0}, "model.dropout=1.0: expected at least 0 and below 1"),
    ],
)
def test_wrong_settings_are_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        GlassConfig(**changes).check()


def test_the_catalogue_is_asked_for_where_it_is_needed() -> None:
    GlassConfig().check()
    with pytest.raises(ValueError, match="GLASS needs the codes and vectors of the items"):
        GlassConfig(**FEW_SIZES).build(SIZES, 20)


def test_it_does_not_export_as_the_tiger_that_it_is_not() -> None:
    with pytest.raises(UserError, match="Glass has no counterpart in Hugging Face"):
        to_hugging_face(tiny())


def test_the_tables_follow_the_model_and_are_neither_averaged_nor_broadcast_nor_cast() -> None:
    model = tiny()
    assert not list(model.buffers())
    codes_NL, counters_PNZ = model.codes_NL.clone(), model.counters_PNZ.clone()
    averaged = torch.optim.swa_utils.AveragedModel(model, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.9))
    for _ in range(3):
        averaged.update_parameters(model)
    assert torch.equal(averaged.module.codes_NL, codes_NL)
    assert torch.equal(averaged.module.counters_PNZ, counters_PNZ)
    assert model.float().codes_NL.dtype == model.counters_PNZ.dtype == torch.long
    moved = model.to("meta")
    assert all(table.is_meta for table in (moved.codes_NL, moved.counters_PNZ, moved.near_AX))


def test_a_normalised_tier_token_has_unit_size_whatever_the_history() -> None:
    model = tiny(tier_norm=True)
    token_BD = model.embed(*users(model))[0][:, 0] / model.tier_token[-1].weight
    torch.testing.assert_close(token_BD.square().mean(1), torch.ones(len(token_BD)).double(), atol=1e-3, rtol=0)
    assert not torch.allclose(token_BD[1], token_BD[2])
