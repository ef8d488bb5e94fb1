"""Legend: B, N vectors, D width, L levels, K codes of a level."""

import math
from itertools import pairwise

import pytest
import torch
from scipy.stats import entropy
from torch import Tensor
from vector_quantize_pytorch import ResidualVQ

from sid.kmeans import nearest
from sid.quantizers import ResidualQuantizer, usage

BETA = 0.25


def quantizer(width: int, sizes: tuple[int, ...], seed: int = 0) -> ResidualQuantizer:
    torch.manual_seed(seed)
    return ResidualQuantizer(width, sizes, BETA).double()


def vectors(num: int, width: int, seed: int = 1) -> Tensor:
    return torch.randn(num, width, generator=torch.Generator().manual_seed(seed), dtype=torch.double)


def slow(q: ResidualQuantizer, vectors_BD: Tensor) -> tuple[list[list[int]], list[list[float]], float]:
    """The equations of the paper, one vector and one code at a time: codes, sums of codes, loss."""
    codes, sums, loss = [], [], 0.0
    for z in vectors_BD.tolist():
        r, chosen, total = list(z), [], [0.0] * len(z)
        for codebook in q.codebooks:
            distances = [math.dist(r, e) ** 2 for e in codebook.tolist()]
            c = distances.index(min(distances))
            loss += (1 + BETA) * distances[c] / len(vectors_BD)
            e = codebook[c].tolist()
            r = [a - b for a, b in zip(r, e, strict=True)]
            total = [a + b for a, b in zip(total, e, strict=True)]
            chosen.append(c)
        codes.append(chosen)
        sums.append(total)
    return codes, sums, loss


@pytest.mark.parametrize("sizes", [(4,), (8, 8, 8), (3, 7, 5)])
def test_codes_sums_and_loss_equal_a_loop_over_the_equations(sizes: tuple[int, ...]) -> None:
    q, vectors_BD = quantizer(5, sizes), vectors(20, 5)
    codes, sums, loss = slow(q, vectors_BD)
    out = q(vectors_BD)
    assert out.codes_BL.tolist() == codes
    torch.testing.assert_close(out.sum_BD, torch.tensor(sums, dtype=torch.double))
    assert out.loss.item() == pytest.approx(loss)


def test_codes_and_sums_equal_vector_quantize_pytorch_with_the_same_codebooks() -> None:
    q, vectors_BD = quantizer(6, (16, 16, 16)).float(), vectors(100, 6).float()
    peer = ResidualVQ(dim=6, num_quantizers=3, codebook_size=16).eval()
    for layer, codebook in zip(peer.layers, q.codebooks, strict=True):
        layer._codebook.embed.data.copy_(codebook.detach()[None])
    sum_BD, codes_BL, *_ = peer(vectors_BD[None])
    out = q(vectors_BD)
    assert torch.equal(out.codes_BL, codes_BL[0])
    torch.testing.assert_close(out.sum_BD, sum_BD[0])


def test_the_gradient_passes_straight_through() -> None:
    q, vectors_BD = quantizer(5, (8, 8)), vectors(10, 5).requires_grad_()
    upstream_BD = vectors(10, 5, seed=2)
    q(vectors_BD).sum_BD.backward(upstream_BD)
    assert torch.equal(vectors_BD.grad, upstream_BD)
    assert all(codebook.grad is None for codebook in q.codebooks)


def test_the_loss_pulls_codes_to_residuals_and_beta_times_that_residuals_to_codes() -> None:
    q = ResidualQuantizer(1, (2, 2), BETA).double()
    with torch.no_grad():
        q.codebooks[0].copy_(torch.tensor([[0.0], [10.0]]))
        q.codebooks[1].copy_(torch.tensor([[1.0], [-5.0]]))
    vectors_BD = torch.tensor([[9.0], [4.0]], dtype=torch.double, requires_grad=True)
    out = q(vectors_BD)
    # 9 -> 10, residual -1 -> 1, residual -2. 4 -> 0, residual 4 -> 1, residual 3.
    assert out.codes_BL.tolist() == [[1, 0], [0, 0]]
    assert out.loss.item() == pytest.approx((1 + BETA) * ((1 + 4) + (16 + 9)) / 2)
    out.loss.backward()
    # d/de |r - e|^2 = -2 (r - e), mean over 2: e_0 of level 1 gets -(4), e_1 gets -(-1), level 2: -(-2 + 3).
    assert q.codebooks[0].grad.flatten().tolist() == [-4, 1]
    assert q.codebooks[1].grad.flatten().tolist() == [-1, 0]
    # d/dz beta |r - e|^2 = beta 2 (r - e), mean over 2, both levels: beta (-1 - 2) and beta (4 + 3).
    assert vectors_BD.grad.flatten().tolist() == [BETA * -3, BETA * 7]


def test_kmeans_initialisation_beats_random_codes_and_lowers_the_error_level_by_level() -> None:
    vectors_ND = vectors(300, 6)
    q = quantizer(6, (8, 8, 8))

    def errors() -> list[float]:
        residual_ND, norms = vectors_ND, [vectors_ND.square().sum(1).mean().item()]
        for codebook in q.codebooks:
            residual_ND = residual_ND - codebook[nearest(residual_ND, codebook)]
            norms.append(residual_ND.square().sum(1).mean().item())
        return norms

    with torch.no_grad():
        before = errors()
        q.initialise(vectors_ND, seed=0)
        after = errors()
    assert after[-1] < before[-1]
    assert all(lower < 0.9 * upper for upper, lower in pairwise(after)), after
    assert usage(q(vectors_ND).codes_BL, q.codebook_sizes).share_L.tolist() == [1, 1, 1]


def test_revive_puts_every_dead_code_on_a_vector_and_then_all_are_used() -> None:
    vectors_ND = vectors(200, 4)
    q = quantizer(4, (6, 5))
    with torch.no_grad():
        for codebook in q.codebooks:
            codebook[1:] = 1e3  # all vectors go to code 0
    assert usage(q(vectors_ND).codes_BL, q.codebook_sizes).share_L.tolist() == pytest.approx([1 / 6, 1 / 5])
    moved = q.revive(vectors_ND, torch.Generator().manual_seed(0))
    assert moved == 5 + 4
    used = usage(q(vectors_ND).codes_BL, q.codebook_sizes)
    assert used.share_L.tolist() == [1, 1]
    assert (q.codebooks[0][1:, None] == vectors_ND).all(2).any(1).all()


def test_revive_leaves_codes_in_use_alone() -> None:
    vectors_ND = vectors(50, 3)
    q = quantizer(3, (4, 4))
    q.initialise(vectors_ND, seed=0)
    before = [codebook.detach().clone() for codebook in q.codebooks]
    assert q.revive(vectors_ND, torch.Generator()) == 0
    assert all(torch.equal(a, b) for a, b in zip(before, q.codebooks, strict=True))


def test_revive_with_fewer_vectors_than_dead_codes_moves_as_many_as_there_are() -> None:
    q = quantizer(2, (10,))
    with torch.no_grad():
        q.codebooks[0].fill_(1e3)
    assert q.revive(vectors(3, 2), torch.Generator().manual_seed(0)) == 3


def test_usage_of_two_levels() -> None:
    codes_NL = torch.tensor([[0, 0], [0, 1], [1, 2], [1, 3]])
    used = usage(codes_NL, (4, 4))
    assert used.share_L.tolist() == [0.5, 1.0]
    assert used.perplexity_L.tolist() == pytest.approx([2.0, 4.0])


def test_perplexity_is_the_exponential_of_scipys_entropy() -> None:
    codes_NL = torch.randint(0, 7, (50, 3), generator=torch.Generator().manual_seed(0))
    for level, perplexity in enumerate(usage(codes_NL, (7, 8, 9)).perplexity_L.tolist()):
        assert perplexity == pytest.approx(math.exp(entropy(torch.bincount(codes_NL[:, level]).numpy())))
