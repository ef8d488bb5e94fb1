"""Moving averages and the rotation trick. Legend: B vectors, D width, K codes of a level."""

import math

import pytest
import torch
from torch import Tensor
from vector_quantize_pytorch import ResidualVQ, VectorQuantize
from vector_quantize_pytorch.vector_quantize_pytorch import rotate_to

from sid.quantizers import CodeAverages, ResidualQuantizer, rotate


def vectors(num: int, width: int, seed: int = 1) -> Tensor:
    return torch.randn(num, width, generator=torch.Generator().manual_seed(seed), dtype=torch.double)


def following(width: int, sizes: tuple[int, ...], decay: float) -> ResidualQuantizer:
    torch.manual_seed(0)
    quantizer = ResidualQuantizer(width, sizes, 0.25, ema=decay).double()
    quantizer.initialise(vectors(100, width), seed=0)
    return quantizer


def test_averages_equal_a_loop_over_the_equations() -> None:
    decay, epsilon = 0.9, 1e-5
    codes = [[0, 2, 2], [2, 2, 0], [0, 0, 0]]
    batches = [vectors(3, 2, seed=seed) for seed in range(3)]
    start_KD = vectors(3, 2, seed=9)
    averages = CodeAverages(3, 2, decay).double()
    averages.restart(torch.arange(3), start_KD)
    count, total = [1.0] * 3, start_KD.tolist()
    for codes_B, vectors_BD in zip(codes, batches, strict=True):
        codebook_KD = averages(vectors_BD, torch.tensor(codes_B))
        for k in range(3):
            won = [v for v, code in zip(vectors_BD.tolist(), codes_B, strict=True) if code == k]
            count[k] = decay * count[k] + (1 - decay) * len(won)
            total[k] = [decay * total[k][d] + (1 - decay) * sum(v[d] for v in won) for d in range(2)]
        smooth = [(n + epsilon) / (sum(count) + 3 * epsilon) * sum(count) for n in count]
        expected = [[value / n for value in sums] for sums, n in zip(total, smooth, strict=True)]
        torch.testing.assert_close(codebook_KD, torch.tensor(expected, dtype=torch.double))


def test_codebooks_follow_like_those_of_vector_quantize_pytorch() -> None:
    peer = VectorQuantize(5, 8, decay=0.9, threshold_ema_dead_code=0, rotation_trick=False).train()
    ours = ResidualQuantizer(5, (8,), 0.25, ema=0.9)
    with torch.no_grad():
        ours._put(0, torch.arange(8), peer.codebook)
    for seed in range(5):
        vectors_BD = vectors(40, 5, seed).float()
        ours.follow(ours(vectors_BD))
        peer(vectors_BD[None])
        torch.testing.assert_close(ours.codebooks[0], peer.codebook, check_stride=False)


def test_every_level_follows_the_residuals_of_the_level_before() -> None:
    quantizer, vectors_BD = following(3, (4, 4), decay=0.0001), vectors(100, 3)
    batch = quantizer(vectors_BD)
    torch.testing.assert_close(batch.residuals[1], vectors_BD - quantizer.codebooks[0][batch.codes_BL[:, 0]])
    quantizer.follow(batch)
    for level, codebook in enumerate(quantizer.codebooks):
        for code in range(4):
            won = batch.residuals[level][batch.codes_BL[:, level] == code]
            torch.testing.assert_close(codebook[code], won.mean(0), atol=1e-3, rtol=1e-3)


def test_codebooks_that_follow_get_no_gradient_and_the_vectors_still_do() -> None:
    quantizer, vectors_BD = following(3, (4, 4), decay=0.9), vectors(10, 3).requires_grad_()
    before = [codebook.clone() for codebook in quantizer.codebooks]
    quantizer(vectors_BD).loss.backward()
    assert all(codebook.grad is None for codebook in quantizer.codebooks)
    assert vectors_BD.grad.abs().sum() > 0
    assert all(map(torch.equal, before, quantizer.codebooks)), "codebooks move in `follow` alone"


def test_a_revived_code_stays_where_it_was_put() -> None:
    quantizer, vectors_BD = following(3, (4,), decay=0.9), vectors(100, 3)
    quantizer._put(0, torch.tensor([2]), torch.full((1, 3), 1e3, dtype=torch.double))
    assert quantizer.revive(vectors_BD, torch.Generator().manual_seed(0)) == 1
    put_D = quantizer.codebooks[0][2].clone()
    far_BD = vectors_BD[(vectors_BD - put_D).norm(dim=1) > 3][:5]
    quantizer.follow(quantizer(far_BD))
    torch.testing.assert_close(quantizer.codebooks[0][2], put_D, atol=1e-3, rtol=1e-3)


def rotation_matrix(z: Tensor, q: Tensor) -> Tensor:
    """|q| / |z| R of the paper, for a single pair of vectors."""
    z1, q1 = z / z.norm(), q / q.norm()
    r = (z1 + q1) / (z1 + q1).norm()
    R = torch.eye(len(z), dtype=z.dtype) - 2 * torch.outer(r, r) + 2 * torch.outer(q1, z1)
    torch.testing.assert_close(R @ R.T, torch.eye(len(z), dtype=z.dtype))
    return q.norm() / z.norm() * R


def test_rotation_keeps_the_value_and_its_gradient_is_the_papers_matrix() -> None:
    z_BD, q_BD, upstream_BD = vectors(6, 4).requires_grad_(), vectors(6, 4, seed=2), vectors(6, 4, seed=3)
    out_BD = rotate(z_BD, q_BD)
    torch.testing.assert_close(out_BD, q_BD)
    out_BD.backward(upstream_BD)
    for row in range(6):
        matrix = rotation_matrix(z_BD[row].detach(), q_BD[row])
        torch.testing.assert_close(matrix @ z_BD[row].detach(), q_BD[row])
        torch.testing.assert_close(z_BD.grad[row], matrix.T @ upstream_BD[row])


def test_rotation_equals_vector_quantize_pytorch() -> None:
    q_BD, upstream_BD = vectors(20, 4, seed=2), vectors(20, 4, seed=3)
    gradients = []
    for trick in (rotate, rotate_to):
        z_BD = vectors(20, 4).requires_grad_()
        trick(z_BD, q_BD).backward(upstream_BD)
        gradients.append(z_BD.grad)
    torch.testing.assert_close(*gradients)


def test_rotation_of_equal_opposite_and_zero_vectors_is_finite() -> None:
    z_BD = torch.tensor([[1.0, 2.0], [1.0, 2.0], [0.0, 0.0], [1.0, 0.0]], requires_grad=True)
    q_BD = torch.tensor([[1.0, 2.0], [-1.0, -2.0], [1.0, 0.0], [0.0, 0.0]])
    out_BD = rotate(z_BD, q_BD)
    torch.testing.assert_close(out_BD, q_BD)
    out_BD.sum().backward()
    assert z_BD.grad.isfinite().all()
    torch.testing.assert_close(z_BD.grad[0], torch.ones(2))


def test_a_quantizer_rotates_the_vector_onto_the_sum_of_its_codes() -> None:
    torch.manual_seed(0)
    quantizer = ResidualQuantizer(4, (8, 8), 0.25, gradient="rotation").double()
    z_BD, upstream_BD = vectors(5, 4).requires_grad_(), vectors(5, 4, seed=2)
    out = quantizer(z_BD)
    out.sum_BD.backward(upstream_BD)
    sum_BD = sum(codebook[codes_B] for codebook, codes_B in zip(quantizer.codebooks, out.codes_BL.T, strict=True))
    torch.testing.assert_close(out.sum_BD, sum_BD)
    for row in range(5):
        matrix = rotation_matrix(z_BD[row].detach(), sum_BD[row].detach())
        torch.testing.assert_close(z_BD.grad[row], matrix.T @ upstream_BD[row])


def test_the_loss_is_the_commitment_of_vector_quantize_pytorch_in_both_directions() -> None:
    torch.manual_seed(0)
    ours, vectors_BD = ResidualQuantizer(6, (16, 16, 16), 0.25), vectors(100, 6).float()
    peer = ResidualVQ(dim=6, num_quantizers=3, codebook_size=16, rotation_trick=False).train()
    for layer, codebook in zip(peer.layers, ours.codebooks, strict=True):
        layer._codebook.embed.data.copy_(codebook.detach()[None])
    _, codes_BL, commitment_L = peer(vectors_BD[None], freeze_codebook=True)
    out = ours(vectors_BD)
    assert torch.equal(out.codes_BL, codes_BL[0])
    torch.testing.assert_close(out.loss, (1 + 0.25) * 6 * commitment_L.sum())


def test_last_distances_are_those_to_the_codes_of_the_last_level() -> None:
    torch.manual_seed(0)
    quantizer, vectors_BD = ResidualQuantizer(4, (8, 8, 5), 0.25).double(), vectors(30, 4)
    codes_BL = quantizer(vectors_BD).codes_BL
    distance_BK = quantizer.last_distances(vectors_BD, codes_BL)
    assert distance_BK.shape == (30, 5) and torch.equal(distance_BK.argmin(1), codes_BL[:, 2])
    first, second, last = (codebook.tolist() for codebook in quantizer.codebooks)
    for row, (a, b, _) in zip(range(30), codes_BL.tolist(), strict=True):
        left = [v - x - y for v, x, y in zip(vectors_BD[row].tolist(), first[a], second[b], strict=True)]
        assert distance_BK[row].tolist() == pytest.approx([math.dist(left, code) ** 2 for code in last])
