"""Legend: N items, K neighbours, E width."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from scipy.linalg import fractional_matrix_power
from sklearn.covariance import LedoitWolf
from torch import Tensor

from models import neighbours
from models.neighbours import evened_out, nearest_items


@given(st.integers(1, 40), st.integers(1, 50), st.integers(1, 400), st.booleans(), st.integers(0, 1000))
def test_they_are_those_of_all_cosines_sorted(num_items: int, most: int, piece: int, some: bool, seed: int) -> None:
    draw = torch.Generator().manual_seed(seed)
    vectors_NE = torch.randn(num_items, 5, generator=draw)
    new_N = torch.rand(num_items, generator=draw) < 0.4 if some else None
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(neighbours, "PIECE", piece)
        near = nearest_items(vectors_NE, most, new_N)
    unit_NE = F.normalize(vectors_NE, dim=1)
    known = [item for item in range(num_items) if new_N is None or not new_N[item]]
    assert near.items_NK.shape == (num_items, min(most, max(len(known) - 1, 0)))
    for item in range(num_items):
        cosines = {other: float(unit_NE[item] @ unit_NE[other]) for other in known if other != item}
        expected = sorted(cosines.values(), reverse=True)[: near.items_NK.shape[1]]
        assert near.cosines_NK[item].tolist() == pytest.approx(expected, abs=1e-5)
        assert [cosines[other] for other in near.items_NK[item].tolist()] == pytest.approx(expected, abs=1e-5)


def varied(num_items: int, width: int = 6) -> Tensor:
    draw = torch.Generator().manual_seed(0)
    return 3 + torch.randn(num_items, width, generator=draw) * torch.logspace(0, -1, width)


@pytest.mark.parametrize("num_items", [4, 30, 500])
@pytest.mark.parametrize("some_new", [False, True])
def test_evened_out_vectors_are_multiplied_by_the_inverse_root_of_the_covariance(
    num_items: int, some_new: bool
) -> None:
    vectors_NE = varied(num_items).double()
    new_N = torch.arange(num_items) % 3 == 2
    known = vectors_NE[~new_N] if some_new else vectors_NE
    reference = LedoitWolf().fit(known.numpy())
    centred_NE = vectors_NE - torch.from_numpy(reference.location_)
    expected_NE = centred_NE @ torch.from_numpy(fractional_matrix_power(reference.covariance_, -0.5))
    even_NE = evened_out(vectors_NE.float(), new_N if some_new else None)
    torch.testing.assert_close(even_NE, expected_NE.float(), rtol=1e-3, atol=1e-3)


def test_evened_out_vectors_vary_as_much_in_all_directions() -> None:
    even_NE = evened_out(varied(20_000))
    torch.testing.assert_close(torch.cov(even_NE.T), torch.eye(6), rtol=0, atol=0.05)


def test_what_is_near_does_not_depend_on_rotation_length_and_place() -> None:
    vectors_NE = varied(60)
    rotation_EE = torch.linalg.qr(torch.randn(6, 6, generator=torch.Generator().manual_seed(1))).Q
    here, there = (nearest_items(evened_out(some), 5) for some in (vectors_NE, 0.01 * vectors_NE @ rotation_EE - 1))
    assert (here.items_NK == there.items_NK).all()
    torch.testing.assert_close(here.cosines_NK, there.cosines_NK, rtol=0, atol=1e-3)


@pytest.mark.parametrize(
    "vectors_NE", [varied(1), varied(2), torch.ones(5, 4), varied(7, width=1), varied(5, width=40)]
)
@pytest.mark.parametrize("known", [0, 1, 2, None])
def test_few_items_and_such_as_are_all_alike_stay_finite(vectors_NE: Tensor, known: int | None) -> None:
    new_N = None if known is None else torch.arange(len(vectors_NE)) >= known
    assert evened_out(vectors_NE, new_N).isfinite().all()


def test_of_few_items_some_stay_nearer_than_others() -> None:
    near = nearest_items(evened_out(varied(20, width=40)), 19)
    assert (near.cosines_NK[:, 0] - near.cosines_NK[:, -1]).min() > 0.2


def test_what_is_new_among_items_that_are_all_alike_stays_finite() -> None:
    vectors_NE = torch.cat([torch.full((3, 4), 0.1), varied(4, width=4)])
    new_N = torch.arange(7) >= 3
    even_NE = evened_out(vectors_NE, new_N)
    assert torch.equal(even_NE[:3], torch.zeros(3, 4)) and even_NE.isfinite().all() and even_NE.abs().max() < 10
