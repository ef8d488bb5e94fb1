"""Legend: N vectors, K centres, D width, L levels."""

import sys
from itertools import pairwise

import faiss
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sid.errors import UserError
from sid.kmeans import kmeans, nearest, residual_kmeans


def gaussian(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 30), st.integers(1, 9), st.integers(1, 5), st.integers(0, 10**6))
def test_nearest_equals_a_loop_and_faiss(num_vectors: int, num_centres: int, width: int, seed: int) -> None:
    vectors_ND, centres_KD = gaussian(num_vectors, width, seed=seed), gaussian(num_centres, width, seed=seed + 1)
    ours_N = nearest(vectors_ND, centres_KD)
    distances = [[float((v - c).square().sum()) for c in centres_KD] for v in vectors_ND]
    for row, chosen in zip(distances, ours_N.tolist(), strict=True):
        assert row[chosen] == pytest.approx(min(row), rel=1e-4, abs=1e-5)
    index = faiss.IndexFlatL2(width)
    index.add(centres_KD.numpy())
    theirs_N = torch.from_numpy(index.search(vectors_ND.numpy(), 1)[1][:, 0])
    clear_N = torch.tensor([len(row) == 1 or sorted(row)[1] - sorted(row)[0] > 1e-4 for row in distances])
    assert torch.equal(ours_N[clear_N], theirs_N[clear_N])


def test_nearest_takes_the_first_of_equals() -> None:
    assert nearest(torch.tensor([[0.0]]), torch.tensor([[2.0], [1.0], [-1.0], [1.0]])).tolist() == [1]


def test_kmeans_finds_three_clear_clusters() -> None:
    means_KD = torch.tensor([[0.0, 0.0], [10.0, 0.0], [0.0, 10.0]])
    vectors_ND = (means_KD[:, None] + 0.1 * gaussian(3, 20, 2)).flatten(0, 1)
    centres_KD = kmeans(vectors_ND, 3, seed=0)
    order_K = nearest(means_KD, centres_KD)
    assert sorted(order_K.tolist()) == [0, 1, 2]
    torch.testing.assert_close(centres_KD[order_K], vectors_ND.view(3, 20, 2).mean(1))


def test_kmeans_depends_on_the_seed_alone() -> None:
    vectors_ND = gaussian(60, 3)
    assert torch.equal(kmeans(vectors_ND, 8, seed=1), kmeans(vectors_ND, 8, seed=1))
    assert not torch.equal(kmeans(vectors_ND, 8, seed=1), kmeans(vectors_ND, 8, seed=2))


def test_seeds_begin_anew_where_faiss_has_none_left() -> None:
    vectors_ND = gaussian(60, 3)
    assert torch.equal(kmeans(vectors_ND, 8, seed=2**31 + 5), kmeans(vectors_ND, 8, seed=5))


def test_kmeans_takes_as_many_centres_as_vectors_but_not_more() -> None:
    vectors_ND = gaussian(4, 3)
    centres_KD = kmeans(vectors_ND, 4, seed=0)
    assert sorted(nearest(vectors_ND, centres_KD).tolist()) == [0, 1, 2, 3]
    with pytest.raises(UserError, match="a codebook of 5 codes needs as many items, there are 4; lower tokenizer"):
        kmeans(vectors_ND, 5, seed=0)


def test_without_faiss_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(UserError, match="faiss is missing; install an extra"):
        kmeans(gaussian(4, 3), 2, seed=0)


def test_residual_kmeans_codes_are_nearest_to_what_the_levels_before_leave_and_every_level_helps() -> None:
    vectors_ND = gaussian(200, 4)
    codes_NL, levels = residual_kmeans(vectors_ND, (8, 4, 6), seed=0)
    assert codes_NL.shape == (200, 3)
    assert [tuple(centres.shape) for centres in levels] == [(8, 4), (4, 4), (6, 4)]
    errors = [vectors_ND.square().sum(1).mean().item()]
    left_ND = vectors_ND
    for level, centres_KD in enumerate(levels):
        assert torch.equal(codes_NL[:, level], torch.cdist(left_ND, centres_KD).argmin(1))
        left_ND = left_ND - centres_KD[codes_NL[:, level]]
        errors.append(left_ND.square().sum(1).mean().item())
    assert all(after < 0.9 * before for before, after in pairwise(errors)), errors
