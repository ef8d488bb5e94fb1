"""Legend: B users, T items of a sequence, N items, X targets, L items that a place sees, D width."""

import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from models.caser import Caser
from models.classic_configs import (
    BERT4RecConfig,
    CaserConfig,
    ClassicConfig,
    FDSAConfig,
    GRU4RecConfig,
    HGNConfig,
    HSTUConfig,
    ItemKNNConfig,
    PopularityConfig,
    RPGConfig,
    S3RecConfig,
    SASRecConfig,
)
from models.hgn import HGN
from models.hstu import HSTU
from models.next_item import ItemReader, NextItem
from tests.models.tiny_rivals import ITEMS, LONGEST, SMALL, USERS, as_read, built, histories, known, name_of

CAUSAL: list[ClassicConfig] = [
    GRU4RecConfig(**SMALL, hidden=48),
    CaserConfig(**SMALL, length=3),
    HGNConfig(**SMALL, length=3),
    SASRecConfig(**SMALL, ff_width=64),
    HSTUConfig(**SMALL),
    FDSAConfig(**SMALL, ff_width=64),
    S3RecConfig(**SMALL, ff_width=64),
    RPGConfig(**SMALL, num_heads=2, head_width=16, ff_width=64),
]
LEARNING: list[ClassicConfig] = [*CAUSAL, BERT4RecConfig(**SMALL, ff_width=64, hidden=0.3)]


@pytest.mark.parametrize("config", CAUSAL, ids=name_of)
def test_a_state_sees_no_later_item(config: ClassicConfig) -> None:
    model = built(config).eval()
    item_BT = torch.randint(0, ITEMS, (4, LONGEST), generator=torch.Generator().manual_seed(2))
    for place in range(1, LONGEST):
        other_BT = item_BT.clone()
        other_BT[:, place:] = (other_BT[:, place:] + 7) % ITEMS
        before, after = (model.states(x_BT, torch.arange(4))[:, :place] for x_BT in (item_BT, other_BT))
        torch.testing.assert_close(before, after)
        assert not torch.allclose(
            model.states(other_BT, torch.arange(4))[:, place], model.states(item_BT, torch.arange(4))[:, place]
        )


@pytest.mark.parametrize("config", CAUSAL, ids=name_of)
def test_what_a_window_trains_is_what_is_asked_later(config: ClassicConfig) -> None:
    model = built(config).eval()
    item_BT, user_B = histories()
    states_BTD = model.states(item_BT, user_B)
    for row, length in enumerate((item_BT >= 0).sum(1)):
        for end in range(1, int(length) + 1):
            alone_1N = model.scores(item_BT[row : row + 1, :end], user_B[row : row + 1])
            state_1D = states_BTD[row, end - 1][None]
            torch.testing.assert_close(alone_1N, model.scores_of(state_1D), atol=1e-5, rtol=1e-4)
            if isinstance(model, NextItem):
                states_1D, answers_ND = model._answered(state_1D)
                torch.testing.assert_close(alone_1N, states_1D @ answers_ND.T, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("config", [*LEARNING, ItemKNNConfig(), PopularityConfig()], ids=name_of)
def test_scores_do_not_depend_on_padding_or_on_other_users(config: ClassicConfig) -> None:
    model = built(config).eval()
    item_BT, user_B = histories()
    together_BN = model.scores(F.pad(item_BT, (0, 0)), user_B)
    assert together_BN.shape == (5, ITEMS)
    for row, length in enumerate((item_BT >= 0).sum(1)):
        alone_1N = model.scores(item_BT[row : row + 1, :length], user_B[row : row + 1])
        torch.testing.assert_close(together_BN[row : row + 1], alone_1N, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("config", [*LEARNING, ItemKNNConfig(), PopularityConfig()], ids=name_of)
def test_scores_are_not_rounded_where_states_are(config: ClassicConfig) -> None:
    item_BT, user_B = histories()
    with torch.autocast("cpu", torch.bfloat16):
        scores_BN = built(config).eval().scores(item_BT, user_B)
    assert scores_BN.dtype == torch.float32
    some = scores_BN[scores_BN.isfinite() & (scores_BN != 0)]
    assert isinstance(config, PopularityConfig) or (some != some.bfloat16().float()).float().mean() > 0.9


@pytest.mark.parametrize("config", [*LEARNING, ItemKNNConfig(), PopularityConfig()], ids=name_of)
@pytest.mark.parametrize("width", [0, 2])
def test_an_empty_history_is_answered_too(config: ClassicConfig, width: int) -> None:
    scores_BN = built(config).eval().scores(torch.full((2, width), -1), torch.arange(2))
    assert scores_BN.shape == (2, ITEMS)
    assert scores_BN.isfinite().all()


@pytest.mark.parametrize("config", LEARNING, ids=name_of)
def test_fifty_users_are_learnt_by_heart(config: ClassicConfig) -> None:
    model = built(config)
    draw = torch.Generator().manual_seed(3)
    item_BT = torch.randint(0, ITEMS, (USERS, 5), generator=draw)
    user_B = torch.arange(USERS)
    target_BT = (torch.arange(5) == 4).expand(USERS, 5)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(300):
        optimizer.zero_grad()
        model.window_loss([(item_BT, user_B, target_BT)]).backward()
        optimizer.step()
    first_B = model.eval().scores(item_BT[:, :4], user_B).argmax(1)
    assert (first_B == item_BT[:, 4]).float().mean() > 0.9


@pytest.mark.parametrize("loss", ["sampled_softmax", "binary", "bpr"])
def test_other_losses_learn_them_too(loss: str) -> None:
    test_fifty_users_are_learnt_by_heart(SASRecConfig(**SMALL, ff_width=64, loss=loss, negatives=30))


def test_windows_train_every_target_once_and_nothing_else() -> None:
    model = built(SASRecConfig(**SMALL)).eval()
    item_BT, user_B = histories()
    target_BT = (item_BT >= 0) & (torch.arange(LONGEST) >= 2)
    losses = [
        F.cross_entropy(model.scores(item_BT[row : row + 1, :place], user_B[row : row + 1]), item_BT[row, place, None])
        for row, place in target_BT.nonzero().tolist()
    ]
    expected = torch.stack(losses).mean()
    torch.testing.assert_close(model.window_loss([(item_BT, user_B, target_BT)]), expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("config", CAUSAL, ids=name_of)
def test_parts_of_any_length_have_the_loss_of_all_their_targets_together(config: ClassicConfig) -> None:
    model = built(config).eval()
    item_BT, user_B = histories()
    target_BT = (item_BT >= 0) & (torch.arange(LONGEST) >= 1)
    parts = [(item_BT[rows, :n], user_B[rows], target_BT[rows, :n]) for rows, n in (([1, 2], 3), ([3, 4], LONGEST))]
    whole = (item_BT[1:], user_B[1:], target_BT[1:])
    torch.testing.assert_close(model.window_loss(parts), model.window_loss([whole]), atol=1e-5, rtol=1e-4)


def test_caser_is_its_convolutions_over_the_last_items() -> None:
    model: Caser = built(CaserConfig(**SMALL, length=3)).eval()
    item_BT, user_B = histories()
    read_ND = model.items * model.scale
    for row, items in enumerate(item_BT.tolist()):
        real = [item for item in items if item >= 0]
        for place in range(len(real)):
            image_LD = torch.zeros(3, 32)
            for back, item in enumerate(reversed(real[max(0, place - 2) : place + 1])):
                image_LD[2 - back] = read_ND[item]
            vertical = (model.vertical.weight @ image_LD + model.vertical.bias[:, None]).T.flatten()
            parts = [vertical]
            for height in range(1, 4):
                convolution: Any = model.horizontal[height - 1]
                answers = [
                    (convolution.weight * image_LD[top : top + height].T).sum((1, 2)) + convolution.bias
                    for top in range(3 - height + 1)
                ]
                parts.append(torch.stack(answers).relu().amax(0))
            expected = torch.cat([model.out(torch.cat(parts)).relu(), model.users[row]])
            torch.testing.assert_close(model.states(item_BT, user_B)[row, place], expected, atol=1e-6, rtol=1e-4)


def test_hgn_is_its_gates_over_the_last_items() -> None:
    model: HGN = built(HGNConfig(**SMALL, length=3)).eval()
    item_BT, user_B = histories()
    states_BTD, read_ND = model.states(item_BT, user_B), model.items
    for row, items in enumerate(item_BT.tolist()):
        real = [item for item in items if item >= 0]
        for place in range(len(real)):
            user_D = model.users[row]
            window = real[max(0, place - 2) : place + 1]
            openings = model.instance_user(user_D)[3 - len(window) :]
            gated, weights = [], []
            for item, by_user in zip(window, openings, strict=True):
                gate_D = (model.feature(read_ND[item]) + model.feature_user(user_D)).sigmoid()
                gated.append(read_ND[item] * gate_D)
                weights.append((model.instance(gated[-1])[0] + by_user).sigmoid())
            pooled_D = sum(w * x_D for w, x_D in zip(weights, gated, strict=True)) / sum(weights)
            expected = user_D + pooled_D + sum(read_ND[item] for item in window)
            torch.testing.assert_close(states_BTD[row, place], expected, atol=1e-6, rtol=1e-4)


def test_hstu_attends_as_in_the_paper() -> None:
    model: HSTU = built(HSTUConfig(**SMALL, num_layers=1)).eval()
    item_BT = torch.randint(0, ITEMS, (1, 4), generator=torch.Generator().manual_seed(4))
    layer: Any = model.layers[0]
    x_TD = as_read(model)[item_BT[0]] + model.position[:4]
    gate, query, key, value = F.silu(layer.fused(layer.norm(x_TD))).chunk(4, dim=1)
    rows = []
    for place in range(4):
        heads = []
        for head in range(2):
            part = slice(16 * head, 16 * head + 16)
            seen = range(place + 1)
            weights = [
                F.silu(query[place, part] @ key[s, part] + layer.distance[head, place - s]) / LONGEST for s in seen
            ]
            heads.append(sum(w * value[s, part] for w, s in zip(weights, seen, strict=True)))
        rows.append(gate[place] * layer.attended_norm(torch.cat(heads)))
    expected = x_TD + layer.out(torch.stack(rows))
    expected = expected / expected.norm(dim=1, keepdim=True) * 32**0.5
    torch.testing.assert_close(
        model.states(item_BT, torch.zeros(1, dtype=torch.long))[0], expected, atol=1e-5, rtol=1e-4
    )


def test_gru4rec_is_torchs_recurrent_network_on_whole_histories() -> None:
    model = built(GRU4RecConfig(**SMALL, hidden=48)).eval()
    item_BT, user_B = histories()
    for row, length in enumerate((item_BT >= 0).sum(1)):
        _, last = model.recurrent(as_read(model)[item_BT[row, :length]][None])
        torch.testing.assert_close(model.scores(item_BT, user_B)[row], model.out(last[-1, 0]) @ model.items.T)


def test_neighbours_by_content_are_cosines_added_up() -> None:
    data, item_BT = known(), torch.tensor([[3, 7, 3], [5, -1, -1]])
    scores_BN = built(ItemKNNConfig(decay=0.5)).scores(item_BT, torch.arange(2))
    assert data.vectors_ND is not None
    unit_ND = torch.stack([vector_D / vector_D.norm() for vector_D in data.vectors_ND])
    around_ND = unit_ND - unit_ND.mean(0)
    for row, (history, weights) in enumerate((([3, 7, 3], [0.25, 0.5, 1.0]), ([5], [1.0]))):
        for item in range(ITEMS):
            cosines = [F.cosine_similarity(around_ND[item], around_ND[seen], dim=0) for seen in history]
            expected = sum(w * c for w, c in zip(weights, cosines, strict=True))
            if item in history:
                assert scores_BN[row, item] == -torch.inf
            else:
                torch.testing.assert_close(scores_BN[row, item], expected, atol=1e-5, rtol=1e-4)


def test_fdsa_reads_attributes() -> None:
    model = built(FDSAConfig(**SMALL)).eval()
    other = copy.deepcopy(model)
    other.attributes_NA = (model.attributes_NA + 1).clamp_max(4)
    item_BT, user_B = histories()
    assert not torch.allclose(model.scores(item_BT, user_B), other.scores(item_BT, user_B))
    none = model.features(torch.tensor([[-1]]))
    assert (none == 0).all()


@pytest.mark.parametrize("config", [FDSAConfig(), S3RecConfig(), ItemKNNConfig(), RPGConfig()], ids=name_of)
def test_what_a_model_reads_of_items_has_to_be_there(config: ClassicConfig) -> None:
    with pytest.raises(ValueError, match="needs the"):
        config.build(known()._replace(attributes_NA=None, vectors_ND=None, codes_NL=None))


def test_every_rival_is_a_module() -> None:
    for config in (*LEARNING, ItemKNNConfig(), PopularityConfig()):
        config.check()
        assert isinstance(built(config), nn.Module)
        assert isinstance(built(config), ItemReader) == config.learns
