"""Legend: B rows of a batch, C collaborative width, D latent width, K codes of a level."""

import math

import pytest
import torch
from torch import Tensor

from models.letter import alignment, code_groups, diversity
from sid.kmeans import kmeans, nearest


def normal(rows: int, width: int, seed: int) -> Tensor:
    return torch.randn(rows, width, generator=torch.Generator().manual_seed(seed), dtype=torch.double)


def dot(a: list[float], b: list[float]) -> float:
    return sum(x * y for x, y in zip(a, b, strict=True))


@pytest.mark.parametrize("temperature", [1.0, 0.3])
def test_alignment_equals_a_loop_over_the_items_with_a_collaborative_vector(temperature: float) -> None:
    sums_BC, collaborative_BC = normal(7, 4, 0), normal(7, 4, 1)
    collaborative_BC[[1, 5]] = 0
    known = [row for row in range(7) if row not in (1, 5)]
    z, h, loss = sums_BC.tolist(), collaborative_BC.tolist(), 0.0
    for i in known:
        score = {j: math.exp(dot(z[i], h[j]) / temperature) for j in known}
        loss -= math.log(score[i] / sum(score.values())) / len(known)
    assert alignment(sums_BC, collaborative_BC, temperature).item() == pytest.approx(loss)


def test_items_without_a_collaborative_vector_get_no_gradient_and_a_batch_of_them_no_loss() -> None:
    sums_BC, collaborative_BC = normal(3, 2, 0).requires_grad_(), normal(3, 2, 1)
    collaborative_BC[1] = 0
    alignment(sums_BC, collaborative_BC, 1.0).backward()
    assert sums_BC.grad.abs().sum(1).gt(0).tolist() == [True, False, True]
    nothing = alignment(sums_BC, torch.zeros(3, 2, dtype=torch.double), 1.0)
    nothing.backward()
    assert nothing.item() == 0


def test_diversity_equals_a_loop_over_the_items_and_the_codes_of_their_groups() -> None:
    codebook_KD, group_K, codes_B = normal(6, 3, 0), torch.tensor([0, 0, 0, 1, 1, 2]), torch.tensor([0, 3, 5, 2, 0])
    e, groups, losses = codebook_KD.tolist(), group_K.tolist(), []
    for c in codes_B.tolist():
        others = [j for j in range(6) if j != c]
        below = sum(math.exp(dot(e[c], e[j]) / 0.5) for j in others)
        drawn = [-math.log(math.exp(dot(e[c], e[p]) / 0.5) / below) for p in others if groups[p] == groups[c]]
        losses.append(sum(drawn) / max(1, len(drawn)))
    assert diversity(codebook_KD, group_K, codes_B, 0.5).item() == pytest.approx(sum(losses) / 5)
    assert losses[2] == 0, "code 5 is alone in its group"


@pytest.mark.parametrize("size", [1, 2, 3])
def test_diversity_of_a_small_codebook_is_finite(size: int) -> None:
    codebook_KD = normal(size, 3, 0).requires_grad_()
    loss = diversity(codebook_KD, code_groups(codebook_KD, 10, 0), torch.zeros(4, dtype=torch.long), 1.0)
    loss.backward()
    assert loss.isfinite() and codebook_KD.grad.isfinite().all()


def test_groups_hold_alike_codes_in_about_equal_numbers() -> None:
    means_GD = 5 * normal(4, 6, 0).float()
    codebook_KD = means_GD[torch.arange(40) % 4] + 0.1 * normal(40, 6, 1).float()
    group_K = code_groups(codebook_KD, 4, 0)
    assert group_K.view(10, 4).eq(group_K[:4]).all() and len(group_K[:4].unique()) == 4
    dense_KD = torch.cat([0.3 * normal(30, 6, 2), 2 * normal(10, 6, 3)]).float()
    plain_K = nearest(dense_KD, kmeans(dense_KD, 4, 0))
    most, plain = (int(torch.bincount(groups).max()) for groups in (code_groups(dense_KD, 4, 0), plain_K))
    assert most <= 14 < 20 < plain, (most, plain)
