"""Legend: B users, T items of a sequence, N items, X targets, L items that a place sees, D width."""

import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from models.bert4rec import BERT4Rec
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
    NextItemConfig,
    PopularityConfig,
    S3RecConfig,
    SASRecConfig,
)
from models.hgn import HGN
from models.hstu import HSTU
from models.next_item import Known, NextItem
from models.s3rec import S3Rec, draw_segments, gather_segments

ITEMS, USERS, LONGEST = 40, 50, 6
SMALL: dict[str, Any] = {"width": 32, "dropout": 0.0}
CAUSAL: list[NextItemConfig] = [
    GRU4RecConfig(**SMALL, hidden=48),
    CaserConfig(**SMALL, length=3),
    HGNConfig(**SMALL, length=3),
    SASRecConfig(**SMALL, ff_width=64),
    HSTUConfig(**SMALL),
    FDSAConfig(**SMALL, ff_width=64),
    S3RecConfig(**SMALL, ff_width=64),
]
LEARNING: list[NextItemConfig] = [*CAUSAL, BERT4RecConfig(**SMALL, ff_width=64, hidden=0.3)]


def known() -> Known:
    draw = torch.Generator().manual_seed(0)
    attributes_NA = torch.randint(-1, 5, (ITEMS, 2), generator=draw).sort(1, descending=True).values
    vectors_ND = torch.randn(ITEMS, 8, generator=draw)
    return Known(ITEMS, USERS, LONGEST, torch.arange(ITEMS), vectors_ND, attributes_NA)


def built(config: ClassicConfig) -> Any:
    torch.manual_seed(0)
    return config.build(known())


def name_of(config: object) -> str:
    return type(config).__name__.removesuffix("Config")


def histories(count: int = 5) -> tuple[Tensor, Tensor]:
    """Histories of 1 to LONGEST items, and their users."""
    draw = torch.Generator().manual_seed(1)
    item_BT = torch.randint(0, ITEMS, (count, LONGEST), generator=draw)
    length_B = 1 + torch.arange(count) % LONGEST
    return item_BT.masked_fill(torch.arange(LONGEST) >= length_B[:, None], -1), torch.arange(count)


def as_read(model: NextItem) -> Tensor:
    """(N, D), what items of a history are to the model."""
    return model.items * model.items.shape[1] ** 0.5


@pytest.mark.parametrize("config", CAUSAL, ids=name_of)
def test_a_state_sees_no_later_item(config: NextItemConfig) -> None:
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
def test_what_a_window_trains_is_what_is_asked_later(config: NextItemConfig) -> None:
    model = built(config).eval()
    item_BT, user_B = histories()
    states_BTD = model.states(item_BT, user_B)
    for row, length in enumerate((item_BT >= 0).sum(1)):
        for end in range(1, int(length) + 1):
            alone_1N = model.scores(item_BT[row : row + 1, :end], user_B[row : row + 1])
            states_1D, answers_ND = model._answered(states_BTD[row, end - 1][None])
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
def test_fifty_users_are_learnt_by_heart(config: NextItemConfig) -> None:
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
def test_parts_of_any_length_have_the_loss_of_all_their_targets_together(config: NextItemConfig) -> None:
    model = built(config).eval()
    item_BT, user_B = histories()
    target_BT = (item_BT >= 0) & (torch.arange(LONGEST) >= 1)
    parts = [(item_BT[rows, :n], user_B[rows], target_BT[rows, :n]) for rows, n in (([1, 2], 3), ([3, 4], LONGEST))]
    whole = (item_BT[1:], user_B[1:], target_BT[1:])
    torch.testing.assert_close(model.window_loss(parts), model.window_loss([whole]), atol=1e-5, rtol=1e-4)


def test_pretraining_on_parts_is_the_mean_over_all_their_items(monkeypatch: pytest.MonkeyPatch) -> None:
    model: S3Rec = built(S3RecConfig(**SMALL, ff_width=64))
    monkeypatch.setattr(model, "_masked_loss", lambda item_BT: (item_BT + 1.0).sum())
    monkeypatch.setattr(model, "_segment_loss", lambda windows: torch.tensor(6.0 * len(windows)))
    loss = model.pretraining_loss([torch.tensor([[1, 2], [3, -1]]), torch.tensor([[4, 5, 6]])])
    assert loss.item() == pytest.approx((2 + 3 + 4 + 5 + 6 + 7 + 0.5 * 12) / 6)


def test_segments_are_set_against_those_of_other_windows_of_the_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where a part is one window: a segment against itself would cost log 2, whatever is learnt."""
    model: S3Rec = built(S3RecConfig(**SMALL, ff_width=64))
    around = torch.randn(5, 32, generator=torch.Generator().manual_seed(1))
    segment = torch.randn(5, 32, generator=torch.Generator().manual_seed(2))
    monkeypatch.setattr(model, "_around_and_inside", lambda rows: (around[rows], segment[rows]))
    loss = model._segment_loss([torch.tensor([0]), torch.tensor([1, 2]), torch.tensor([3, 4])])
    asked = model.of_segment(around)
    slow = [-F.logsigmoid(asked[row] @ segment[row] - asked[row] @ segment[row - 1]) for row in range(5)]
    torch.testing.assert_close(loss, torch.stack(slow).sum())


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
    for row, (history, weights) in enumerate((([3, 7, 3], [0.25, 0.5, 1.0]), ([5], [1.0]))):
        for item in range(ITEMS):
            cosines = [F.cosine_similarity(data.vectors_ND[item], data.vectors_ND[seen], dim=0) for seen in history]
            expected = sum(w * c for w, c in zip(weights, cosines, strict=True))
            if item in history:
                assert scores_BN[row, item] == -torch.inf
            else:
                torch.testing.assert_close(scores_BN[row, item], expected, atol=1e-5, rtol=1e-4)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(1, LONGEST + 1), min_size=1, max_size=8), st.integers(0, 1000))
def test_bert4rec_hides_real_items_and_at_least_one(lengths: list[int], seed: int) -> None:
    torch.manual_seed(seed)
    there_BT = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
    model: BERT4Rec = BERT4RecConfig(**SMALL).build(known())  # type: ignore[assignment]
    hidden_BT = model.choose(torch.zeros_like(there_BT, dtype=torch.long).masked_fill(~there_BT, -1))
    assert not (hidden_BT & ~there_BT).any()
    assert hidden_BT.any(1).all()
    assert ((there_BT & ~hidden_BT).any(1) | (there_BT.sum(1) == 1)).all(), "something to go by"


def test_bert4rec_reads_items_and_positions_normalised() -> None:
    model: BERT4Rec = built(BERT4RecConfig(**SMALL)).eval()
    item_BT, hidden_BT = histories()[0].clamp_min(0), torch.arange(LONGEST).expand(len(histories()[0]), -1) == 2
    before_BTD = model.read(item_BT, hidden_BT)
    with torch.no_grad():
        for read in (model.items, model.mask, model.position):
            read.mul_(3)
    torch.testing.assert_close(model.read(item_BT, hidden_BT), before_BTD, atol=2e-2, rtol=0)


def test_bert4rec_hides_its_share() -> None:
    model: BERT4Rec = built(BERT4RecConfig(**SMALL, hidden=0.3))
    torch.manual_seed(0)
    hidden_BT = model.choose(torch.zeros(4000, 50, dtype=torch.long))
    alone_B = hidden_BT.sum(1) == 1
    assert alone_B.float().mean() == pytest.approx(0.1, abs=0.02)
    assert hidden_BT[alone_B][:, -1].all()
    assert hidden_BT[~alone_B].float().mean() == pytest.approx(0.3, abs=0.01)


def test_bert4rec_does_not_see_what_is_hidden() -> None:
    model: BERT4Rec = built(BERT4RecConfig(**SMALL)).eval()
    item_BT = torch.randint(0, ITEMS, (3, 5), generator=torch.Generator().manual_seed(5))
    hidden_BT = torch.arange(5).expand(3, 5) == 2
    other_BT = torch.where(hidden_BT, (item_BT + 1) % ITEMS, item_BT)
    torch.testing.assert_close(model.read(item_BT, hidden_BT), model.read(other_BT, hidden_BT))


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(1, LONGEST), min_size=1, max_size=8), st.integers(0, 1000))
def test_segments_lie_in_their_sequences(lengths: list[int], seed: int) -> None:
    torch.manual_seed(seed)
    length_B = torch.tensor(lengths)
    item_BT = torch.arange(LONGEST).expand(len(lengths), -1).masked_fill(torch.arange(LONGEST) >= length_B[:, None], -1)
    first_B, end_B = draw_segments(length_B)
    assert (first_B >= 0).all()
    assert (end_B > first_B).all()
    assert (end_B <= length_B).all()
    segment_BT, hidden_BT = gather_segments(item_BT, first_B, end_B)
    assert not hidden_BT.any()
    for row, (first, end) in enumerate(zip(first_B.tolist(), end_B.tolist(), strict=True)):
        assert [item for item in segment_BT[row].tolist() if item >= 0] == list(range(first, end))


def test_pretraining_always_hides_the_last_item(monkeypatch: pytest.MonkeyPatch) -> None:
    model: S3Rec = built(S3RecConfig(**SMALL, ff_width=64))
    item_BT = torch.tensor([[1, 2, 3, 4], [5, -1, -1, -1], [6, 7, -1, -1]])
    seen: list[Tensor] = []
    read = model.read
    monkeypatch.setattr(model, "read", lambda items, hidden: seen.append(hidden) or read(items, hidden))
    for _ in range(20):
        model._masked_loss(item_BT)
    hidden = torch.stack(seen)
    assert hidden[:, [0, 1, 2], [3, 0, 1]].all() and not hidden[:, item_BT < 0].any()
    assert 0 < hidden[:, 0, :3].float().mean() < 0.5


def test_pretraining_teaches_attributes_and_items() -> None:
    model: S3Rec = built(S3RecConfig(**SMALL, ff_width=64))
    item_BT = torch.randint(0, ITEMS, (USERS, LONGEST + 1), generator=torch.Generator().manual_seed(6))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    losses = []
    for _ in range(200):
        optimizer.zero_grad()
        losses.append(model.pretraining_loss([item_BT]))
        losses[-1].backward()
        optimizer.step()
    assert losses[-1] < 0.7 * losses[0]
    expected = known().attributes_NA
    assert expected is not None
    item_N = torch.arange(ITEMS)
    states_ND = model.of_item(model.eval().read(item_N[:, None], torch.zeros(ITEMS, 1, dtype=torch.bool))[:, 0])
    scores_NV = states_ND @ model.attributes.T
    wanted = F.one_hot(expected.clamp_min(0), 5).mul(expected[..., None] >= 0).amax(1).bool()
    assert scores_NV[wanted].mean() > scores_NV[~wanted].mean() + 1


def test_the_attribute_loss_is_binary_cross_entropy_of_every_value() -> None:
    model: S3Rec = built(S3RecConfig(**SMALL))
    states_XD, item_X = torch.randn(3, 32), torch.tensor([0, 5, 9])
    total = torch.zeros(())
    for state_D, item in zip(states_XD, item_X, strict=True):
        for value, embedded_D in enumerate(model.attributes):
            p = (state_D @ embedded_D).sigmoid()
            total = total - (p.log() if value in model.attributes_NA[item].tolist() else (1 - p).log())
    torch.testing.assert_close(model._attribute_loss(states_XD, item_X), total)


def test_fdsa_reads_attributes() -> None:
    model = built(FDSAConfig(**SMALL)).eval()
    other = copy.deepcopy(model)
    other.attributes_NA = (model.attributes_NA + 1).clamp_max(4)
    item_BT, user_B = histories()
    assert not torch.allclose(model.scores(item_BT, user_B), other.scores(item_BT, user_B))
    none = model.features(torch.tensor([[-1]]))
    assert (none == 0).all()


@pytest.mark.parametrize("config", [FDSAConfig(), S3RecConfig(), ItemKNNConfig()], ids=name_of)
def test_what_a_model_reads_of_items_has_to_be_there(config: ClassicConfig) -> None:
    with pytest.raises(ValueError, match="needs the"):
        config.build(known()._replace(attributes_NA=None, vectors_ND=None))


def test_every_rival_is_a_module() -> None:
    for config in (*LEARNING, ItemKNNConfig(), PopularityConfig()):
        config.check()
        assert isinstance(built(config), nn.Module)
        assert isinstance(built(config), NextItem) == config.learns
