"""Legend: X targets, N items, D width."""

import math

import pytest
import torch
from torch import Tensor

from models import objectives
from models.objectives import another, binary, bpr, objective, sampled_softmax


@pytest.fixture
def problem() -> tuple[Tensor, Tensor, Tensor]:
    torch.manual_seed(0)
    return torch.randn(7, 4), torch.randn(9, 4), torch.randint(0, 9, (7,))


def test_softmax_is_the_log_of_a_share(problem: tuple[Tensor, Tensor, Tensor]) -> None:
    states_XD, answers_ND, target_X = problem
    losses = []
    for state_D, target in zip(states_XD, target_X.tolist(), strict=True):
        scores = [math.exp(float(state_D @ answer_D)) for answer_D in answers_ND]
        losses.append(-math.log(scores[target] / sum(scores)))
    assert objective("softmax", 0)(*problem).item() == pytest.approx(sum(losses) / 7, rel=1e-5)


def test_sampled_softmax_is_that_among_the_drawn(
    problem: tuple[Tensor, Tensor, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    states_XD, answers_ND, target_X = problem
    drawn_XR = torch.randint(0, 9, (7, 5), generator=torch.Generator().manual_seed(1))
    drawn_XR[0, 0] = target_X[0]
    monkeypatch.setattr(objectives.torch, "randint", lambda *_, **__: drawn_XR)
    losses = []
    for state_D, target, drawn in zip(states_XD, target_X.tolist(), drawn_XR.tolist(), strict=True):
        own = math.exp(float(state_D @ answers_ND[target]))
        others = [math.exp(float(state_D @ answers_ND[item])) for item in drawn if item != target]
        losses.append(-math.log(own / (own + sum(others))))
    assert sampled_softmax(*problem, negatives=5).item() == pytest.approx(sum(losses) / 7, rel=1e-5)


@pytest.mark.parametrize("name", ["binary", "bpr"])
def test_one_other_item(name: str, problem: tuple[Tensor, Tensor, Tensor], monkeypatch: pytest.MonkeyPatch) -> None:
    states_XD, answers_ND, target_X = problem
    monkeypatch.setattr(objectives, "another", lambda target_X, _: (target_X + 1) % 9)
    losses = []
    for state_D, target in zip(states_XD, target_X.tolist(), strict=True):
        own, other = (float(state_D @ answers_ND[item]) for item in (target, (target + 1) % 9))
        if name == "bpr":
            losses.append(math.log(1 + math.exp(other - own)))
        else:
            losses.append(math.log(1 + math.exp(-own)) + math.log(1 + math.exp(other)))
    function = bpr if name == "bpr" else binary
    assert function(*problem).item() == pytest.approx(sum(losses) / 7, rel=1e-5)


def test_the_other_item_is_any_but_the_target() -> None:
    torch.manual_seed(0)
    target_X = torch.arange(4).repeat(4000)
    drawn_X = another(target_X, 4)
    counts = torch.bincount(target_X * 4 + drawn_X, minlength=16).view(4, 4)
    assert (counts.diagonal() == 0).all()
    others = counts[~torch.eye(4, dtype=torch.bool)].float()
    assert others.min() > 1200
    assert others.max() < 1470


def test_a_catalogue_of_one_item() -> None:
    assert another(torch.tensor([0, 0]), 1).tolist() == [0, 0]
    states_XD, answers_ND, target_X = torch.randn(2, 3), torch.randn(1, 3), torch.tensor([0, 0])
    for name in ("softmax", "sampled_softmax", "binary", "bpr"):
        assert objective(name, 4)(states_XD, answers_ND, target_X).isfinite()
