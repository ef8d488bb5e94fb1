"""Legend: N items, D width, L levels, H hyperplanes, E width after a rotation, K codes of a level."""

import faiss
import numpy as np
import pytest
import torch
from torch import Tensor

from sid.hashes import Chance, Hyperplanes, Product, balanced_axes


def gaussian(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("width", [4, 12])
def test_hyperplanes_equal_signs_of_projections(width: int) -> None:
    """8 hyperplanes, more and fewer than a vector has numbers; the codes of a level take 3, 0, 1 and 4 of them."""
    fitted_ND, others_ND = gaussian(50, width) + 5, gaussian(300, width, seed=1) + 5
    tokenizer = Hyperplanes(fitted_ND, [8, 1, 2, 16], seed=1)
    normal_HD = faiss.vector_to_array(tokenizer.index.rrot.A).reshape(8, width)
    mean_D = fitted_ND.numpy().mean(0)
    codes_NL = tokenizer.codes(others_ND)
    for vector_D, codes in zip(others_ND.numpy(), codes_NL.tolist(), strict=True):
        sides = [int((vector_D - mean_D) @ plane_D >= 0) for plane_D in normal_HD]
        parts = [sides[:3], [], sides[3:4], sides[4:]]
        assert codes == [sum(side << place for place, side in enumerate(part)) for part in parts]
    if width >= 8:
        np.testing.assert_allclose(normal_HD @ normal_HD.T, np.eye(8), atol=1e-5)
    many_NL = tokenizer.codes(gaussian(3000, width) + 5)
    assert all(len(many_NL[:, level].unique()) == size for level, size in enumerate([8, 1, 2, 16]))


def test_hyperplanes_tell_vectors_of_a_common_direction_apart() -> None:
    """Through the origin, hyperplanes would have nearly all of these on one side."""
    codes_NL = Hyperplanes(gaussian(200, 12) + 50, [16, 16], seed=1).codes(gaussian(200, 12) + 50)
    assert len(codes_NL.unique(dim=0)) > 80


def test_near_vectors_share_more_sides_than_far_ones() -> None:
    vectors_ND = gaussian(200, 12)
    tokenizer = Hyperplanes(vectors_ND, [2] * 64, seed=1)
    codes_NL, noise_ND = tokenizer.codes(vectors_ND), gaussian(200, 12, seed=1)
    near, further, far = (
        (tokenizer.codes(vectors_ND + by * noise_ND) == codes_NL).float().mean() for by in (0.1, 0.5, 2)
    )
    assert near > 0.95 and near > further + 0.05 and further > far + 0.05 and far > 0.5


@pytest.mark.parametrize(("width", "levels", "size"), [(12, 3, 16), (13, 4, 8), (12, 12, 2), (12, 2, 64)])
def test_product_codes_are_the_nearest_of_every_part_and_faiss_decodes_them(width: int, levels: int, size: int) -> None:
    vectors_ND = gaussian(300, width) @ gaussian(width, width, seed=1)
    tokenizer = Product(vectors_ND[:200], [size] * levels, seed=1)
    rotated_NE = ((vectors_ND - tokenizer.mean_D) @ tokenizer.rotation_DE).numpy()
    centres = faiss.vector_to_array(tokenizer.quantizer.centroids).reshape(levels, size, width // levels)
    codes_NL = tokenizer.codes(vectors_ND)
    decoded = []
    distance_NK = tokenizer.last_distances(vectors_ND, codes_NL)
    for vector_E, codes, distance_K in zip(rotated_NE, codes_NL.tolist(), distance_NK.numpy(), strict=True):
        parts = np.split(vector_E, levels)
        np.testing.assert_allclose(distance_K, ((parts[-1] - centres[-1]) ** 2).sum(1), rtol=1e-3, atol=1e-3)
        chosen = [int(((part - of_part) ** 2).sum(1).argmin()) for part, of_part in zip(parts, centres, strict=True)]
        assert codes == chosen
        decoded.append(np.concatenate([of_part[code] for of_part, code in zip(centres, codes, strict=True)]))
    packed = tokenizer.quantizer.compute_codes(rotated_NE)
    np.testing.assert_array_equal(tokenizer.quantizer.decode(packed), np.array(decoded))


def error(tokenizer: Product, vectors_ND: Tensor) -> float:
    """Mean squared distance between a vector and what its codes stand for."""
    rotated_NE = ((vectors_ND - tokenizer.mean_D) @ tokenizer.rotation_DE).numpy()
    decoded_NE = tokenizer.quantizer.decode(tokenizer.quantizer.compute_codes(rotated_NE))
    return float(((decoded_NE - rotated_NE) ** 2).sum(1).mean())


def test_the_rotation_is_one_and_lowers_the_error_of_plain_product_codes_as_much_as_that_of_faiss() -> None:
    spread_ND = gaussian(400, 16) * torch.logspace(0, -1.5, 16) @ torch.linalg.qr(gaussian(16, 16, seed=1))[0]
    tokenizer = Product(spread_ND, [16] * 4, seed=1)
    torch.testing.assert_close(tokenizer.rotation_DE.T @ tokenizer.rotation_DE, torch.eye(16), atol=1e-5, rtol=0)

    plain = faiss.ProductQuantizer(16, 4, 4)
    plain.train(spread_ND.numpy())
    decoded_ND = plain.decode(plain.compute_codes(spread_ND.numpy()))
    assert error(tokenizer, spread_ND) < 0.75 * float(((decoded_ND - spread_ND.numpy()) ** 2).sum(1).mean())

    rotation, quantizer = faiss.OPQMatrix(16, 4), faiss.ProductQuantizer(16, 4, 4)
    rotation.pq = quantizer
    rotation.train(spread_ND.numpy())
    rotated_ND = rotation.apply(spread_ND.numpy())
    quantizer.train(rotated_ND)
    decoded_ND = quantizer.decode(quantizer.compute_codes(rotated_ND))
    assert error(tokenizer, spread_ND) < 1.02 * float(((decoded_ND - rotated_ND) ** 2).sum(1).mean())


def test_axes_are_dealt_evenly() -> None:
    """Variances 81, 27, 9, 3 to two parts: 81 * 3 and 27 * 9, not 81 * 27 and 9 * 3; the weakest axis is left out."""
    scale_D = torch.tensor([3.0, 81, 0.1, 27, 9]).sqrt()
    vectors_ND = torch.cat([torch.eye(5), -torch.eye(5)]) * scale_D
    axes_DE = balanced_axes(vectors_ND, 2)
    assert axes_DE.abs().round().argmax(0).tolist() == [1, 0, 3, 4]
    torch.testing.assert_close(axes_DE.T @ axes_DE, torch.eye(4))


def test_product_codes_of_fewer_directions_than_numbers() -> None:
    vectors_ND = torch.cat([gaussian(40, 3), torch.zeros(40, 9)], dim=1)
    codes_NL = Product(vectors_ND, [8] * 4, seed=1).codes(vectors_ND)
    assert len(codes_NL.unique(dim=0)) > 20


def test_random_codes_are_even_independent_of_each_other_and_blind_to_likeness() -> None:
    vectors_ND = gaussian(6000, 12)
    tokenizer = Chance(12, [6, 5], seed=1)
    codes_NL = tokenizer.codes(vectors_ND)
    count_KK = torch.bincount(codes_NL[:, 0] * 5 + codes_NL[:, 1], minlength=30)
    assert (count_KK / 200 - 1).abs().max() < 0.25
    near_NL = tokenizer.codes(vectors_ND * (1 + 1e-6))
    moved_N = (vectors_ND * (1 + 1e-6) != vectors_ND).any(1)
    assert (near_NL[moved_N, 0] == codes_NL[moved_N, 0]).float().mean() == pytest.approx(1 / 6, abs=0.03)


def test_equal_vectors_share_random_codes_whatever_the_sign_of_their_zeros() -> None:
    vectors_ND = torch.tensor([[0.0, 1.0], [-0.0, 1.0]])
    first, second = Chance(2, [2**20], seed=1).codes(vectors_ND).tolist()
    assert first == second
