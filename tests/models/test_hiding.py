"""BERT4Rec, and the pre-training of S3-Rec: what is learnt from items that are hidden.

Legend: B users, T items of a sequence, N items, X targets, D width, V attribute values.
"""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from models import objectives, s3rec
from models.bert4rec import BERT4Rec
from models.classic_configs import BERT4RecConfig, S3RecConfig
from models.s3rec import S3Rec, draw_segments, gather_segments
from tests.models.tiny_rivals import ITEMS, LONGEST, SMALL, USERS, built, histories, known


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
    before = model.read([item_BT], [hidden_BT])
    with torch.no_grad():
        for read in (model.items, model.mask, model.position):
            read.mul_(3)
    torch.testing.assert_close(model.read([item_BT], [hidden_BT]), before, atol=2e-2, rtol=0)


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
    torch.testing.assert_close(model.read([item_BT], [hidden_BT]), model.read([other_BT], [hidden_BT]))


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
    segment_BT = gather_segments(item_BT, first_B, end_B)
    for row, (first, end) in enumerate(zip(first_B.tolist(), end_B.tolist(), strict=True)):
        assert [item for item in segment_BT[row].tolist() if item >= 0] == list(range(first, end))


def test_pretraining_always_hides_the_last_item(monkeypatch: pytest.MonkeyPatch) -> None:
    model: S3Rec = built(S3RecConfig(**SMALL, ff_width=64))
    item_BT = torch.tensor([[1, 2, 3, 4], [5, -1, -1, -1], [6, 7, -1, -1]])
    seen: list[Tensor] = []
    read = model.read
    monkeypatch.setattr(model, "read", lambda items, hidden: seen.extend(hidden) or read(items, hidden))
    for _ in range(20):
        model._masked_loss([item_BT])
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
    states_ND = model.of_item(model.eval().read([item_N[:, None]], [torch.zeros(ITEMS, 1, dtype=torch.bool)])[0][:, 0])
    scores_NV = states_ND @ model.attributes.T
    wanted = F.one_hot(expected.clamp_min(0), 5).mul(expected[..., None] >= 0).amax(1).bool()
    assert scores_NV[wanted].mean() > scores_NV[~wanted].mean() + 1


def test_the_attribute_loss_is_binary_cross_entropy_of_every_value() -> None:
    model: S3Rec = built(S3RecConfig(**SMALL))
    states_XD, item_X, weights = torch.randn(3, 32), torch.tensor([0, 5, 9]), [0.2, 0.2, 1.0]
    total = torch.zeros(())
    for state_D, item, weight in zip(states_XD, item_X, weights, strict=True):
        for value, embedded_D in enumerate(model.attributes):
            p = (state_D @ embedded_D).sigmoid()
            total = total - weight * (p.log() if value in model.attributes_NA[item].tolist() else (1 - p).log())
    asked = [(states_XD[:2], item_X[:2], 0.2), (states_XD[2:], item_X[2:], 1.0)]
    torch.testing.assert_close(model._attribute_loss(asked), total)


def test_pretraining_on_parts_is_the_mean_over_all_their_items(monkeypatch: pytest.MonkeyPatch) -> None:
    model: S3Rec = built(S3RecConfig(**SMALL, ff_width=64))
    monkeypatch.setattr(model, "_masked_loss", lambda windows: sum((item_BT + 1.0).sum() for item_BT in windows))
    monkeypatch.setattr(model, "_segment_loss", lambda windows: torch.tensor(6.0 * len(windows)))
    loss = model.pretraining_loss([torch.tensor([[1, 2], [3, -1]]), torch.tensor([[4, 5, 6]])])
    assert loss.item() == pytest.approx((2 + 3 + 4 + 5 + 6 + 7 + 0.5 * 12) / 6)


def test_segments_are_set_against_those_of_other_windows_of_the_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where a part is one window: a segment against itself would cost log 2, whatever is learnt."""
    model: S3Rec = built(S3RecConfig(**SMALL, ff_width=64))
    around = torch.randn(5, 32, generator=torch.Generator().manual_seed(1))
    segment = torch.randn(5, 32, generator=torch.Generator().manual_seed(2))
    monkeypatch.setattr(model, "_around_and_inside", lambda _: (around, segment))
    loss = model._segment_loss([torch.zeros(1, 2), torch.zeros(2, 3), torch.zeros(2, 4)])
    asked = model.of_segment(around)
    slow = [-F.logsigmoid(asked[row] @ segment[row] - asked[row] @ segment[row - 1]) for row in range(5)]
    torch.testing.assert_close(loss, torch.stack(slow).sum())


def test_segments_and_what_is_around_them_are_read_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each window with its segment hidden, and the segment as a sequence of its own, of which nothing is."""
    model: S3Rec = built(S3RecConfig(**SMALL, ff_width=64)).eval()
    monkeypatch.setattr(s3rec, "draw_segments", lambda length_B: (length_B // 3, length_B // 3 + (length_B + 1) // 2))
    windows = [torch.tensor([[1, 2]]), torch.tensor([[3, 4, 5, 6], [7, 8, 9, -1]])]
    around_BD, segment_BD = model._around_and_inside(windows)
    rows = [([1, 2], 0, 1), ([3, 4, 5, 6], 1, 3), ([7, 8, 9], 1, 3)]
    for row, (items, first, end) in enumerate(rows):
        hidden_1T = torch.tensor([[first <= place < end for place in range(len(items))]])
        (whole_1TD,) = model.read([torch.tensor([items])], [hidden_1T])
        torch.testing.assert_close(around_BD[row], whole_1TD[0, -1], atol=1e-5, rtol=1e-4)
        inside_1T = torch.tensor([items[first:end]])
        (inside_1TD,) = model.read([inside_1T], [torch.zeros_like(inside_1T, dtype=torch.bool)])
        torch.testing.assert_close(segment_BD[row], inside_1TD[0, -1], atol=1e-5, rtol=1e-4)


def test_pretraining_on_parts_learns_what_it_does_on_one(monkeypatch: pytest.MonkeyPatch) -> None:
    model: S3Rec = built(S3RecConfig(**SMALL, ff_width=64)).eval()
    monkeypatch.setattr(model, "_hide", lambda item_BT: (item_BT >= 0) & (item_BT % 3 == 1))
    monkeypatch.setattr(s3rec, "draw_segments", lambda length_B: (length_B // 3, length_B // 3 + 1))
    monkeypatch.setattr(objectives, "another", lambda target_X, _: (target_X + 1) % ITEMS)
    item_BT = torch.tensor([[1, 2, -1, -1], [3, 4, 5, -1], [6, 7, 8, 9]])
    losses = []
    for windows in ([item_BT], [item_BT[:1, :2], item_BT[1:2, :3], item_BT[2:]]):
        model.zero_grad()
        loss = model.pretraining_loss(windows)
        loss.backward()
        losses.append([loss.detach(), *(p.grad.clone() for p in model.parameters() if p.grad is not None)])
    torch.testing.assert_close(losses[1], losses[0], atol=1e-5, rtol=1e-4)


def test_bert4rec_reads_parts_as_each_alone() -> None:
    model: BERT4Rec = built(BERT4RecConfig(**SMALL)).eval()
    items = [torch.tensor([[1, 2, -1]]), torch.tensor([[3, 4, 5, 6], [7, 8, -1, -1]])]
    hidden = [(item_BT % 2 == 0) & (item_BT >= 0) for item_BT in items]
    alone = [model.read([item_BT], [hidden_BT])[0] for item_BT, hidden_BT in zip(items, hidden, strict=True)]
    torch.testing.assert_close(model.read(items, hidden), alone, atol=1e-5, rtol=1e-4)
