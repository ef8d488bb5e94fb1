"""What every tokenizer promises, those without a network. Legend: N items, D width, L levels."""

from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import numpy as np
import pytest
import torch
from torch import Tensor

from sid import tokenizers
from sid.configs import (
    ChanceConfig,
    HyperplanesConfig,
    ProductConfig,
    ResidualKMeansConfig,
    TokenizerConfig,
    TreeConfig,
)
from sid.errors import UserError
from sid.table import SIDTable
from sid.tokenizers import Context, Movable, Tokenizer, assign, drawn, require_vectors

MAKE: dict[str, Callable[[list[int], int], TokenizerConfig]] = {
    "rqkmeans": lambda sizes, seed: ResidualKMeansConfig(sizes, seed=seed),
    "balanced": lambda sizes, seed: ResidualKMeansConfig(sizes, seed=seed, balanced=True),
    "tree": lambda sizes, seed: TreeConfig(sizes, seed=seed),
    "lsh": lambda sizes, seed: HyperplanesConfig(sizes, seed=seed),
    "opq": lambda sizes, seed: ProductConfig(sizes, seed=seed),
    "random": lambda sizes, seed: ChanceConfig(sizes, seed=seed),
}
UNEVEN = {name: [8, 3, 5] for name in MAKE} | {"lsh": [8, 2, 32], "opq": [8, 8, 8]}
every = pytest.mark.parametrize("name", MAKE)


def unused(*arguments: object) -> NoReturn:
    raise AssertionError("this tokenizer needs item vectors alone")


def fit(name: str, vectors_ND: Tensor, sizes: list[int], seed: int = 1) -> Tokenizer:
    config = MAKE[name](sizes, seed)
    config.check()
    require_vectors(vectors_ND, sizes)
    return config.fit(vectors_ND, Context(train=unused, collaborative=unused))


def gaussian(num_vectors: int, width: int = 12, seed: int = 0) -> Tensor:
    return torch.randn(num_vectors, width, generator=torch.Generator().manual_seed(seed))


def planted(clusters: int = 4, per_cluster: int = 30, width: int = 12) -> tuple[Tensor, Tensor]:
    """Vectors (N, D) in a random order, and the cluster of each, 60 times as far apart as it is wide."""
    order_N = torch.randperm(clusters * per_cluster, generator=torch.Generator().manual_seed(0))
    cluster_N = torch.arange(clusters).repeat_interleave(per_cluster)[order_N]
    return 3 * gaussian(clusters, width, seed=5)[cluster_N] + 0.05 * gaussian(len(order_N), width), cluster_N


def purity(code_N: Tensor, cluster_N: Tensor) -> float:
    """The share of items whose cluster is the commonest one among the items of their code."""
    return sum(int(cluster_N[code_N == code].bincount().max()) for code in code_N.unique()) / len(code_N)


@pytest.mark.parametrize(("name", "least"), [("rqkmeans", 1.0), ("balanced", 1.0), ("tree", 1.0), ("random", 0.0)])
def test_first_codes_find_planted_clusters_unless_they_are_random(name: str, least: float) -> None:
    vectors_ND, cluster_N = planted()
    found = purity(fit(name, vectors_ND, [16, 4]).codes(vectors_ND)[:, 0], cluster_N)
    assert least <= found <= (1.0 if least else 0.6)


@every
def test_items_of_a_cluster_share_more_codes_than_others_unless_codes_are_random(name: str) -> None:
    vectors_ND, cluster_N = planted()
    codes_NL = fit(name, vectors_ND, [4, 4, 4]).codes(vectors_ND)
    shared_NN = (codes_NL[:, None] == codes_NL).float().mean(2)
    same_NN = cluster_N[:, None] == cluster_N
    within = shared_NN[same_NN & ~torch.eye(len(cluster_N), dtype=torch.bool)].mean()
    across = shared_NN[~same_NN].mean()
    assert abs(within - across) < 0.05 if name == "random" else within > across + 0.25, (within, across)


@every
def test_codes_of_uneven_sizes_lie_in_their_codebooks_for_items_that_were_not_there_too(name: str) -> None:
    fitted_ND, others_ND = gaussian(100), 3 * gaussian(300, seed=1)
    tokenizer = fit(name, fitted_ND, UNEVEN[name])
    for vectors_ND in (fitted_ND, others_ND):
        codes_NL = tokenizer.codes(vectors_ND)
        assert codes_NL.dtype == torch.int64 and codes_NL.shape == (len(vectors_ND), 3)
        assert (codes_NL >= 0).all() and (codes_NL < torch.tensor(UNEVEN[name])).all()
        for level, size in enumerate(UNEVEN[name]):
            assert len(codes_NL[:, level].unique()) > size / 2


@every
def test_the_same_seed_gives_the_same_codes_and_another_gives_others(name: str) -> None:
    vectors_ND = gaussian(100)
    one, same, other = (fit(name, vectors_ND, UNEVEN[name], seed).codes(vectors_ND) for seed in (1, 1, 2))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


@every
def test_the_codes_of_a_vector_do_not_depend_on_the_others(name: str) -> None:
    vectors_ND = gaussian(100)
    tokenizer = fit(name, vectors_ND, UNEVEN[name])
    codes_NL = tokenizer.codes(vectors_ND)
    order_N = torch.randperm(100, generator=torch.Generator().manual_seed(2))
    assert torch.equal(tokenizer.codes(vectors_ND[order_N]), codes_NL[order_N])
    for rows in (1, 7):
        assert torch.equal(torch.cat([tokenizer.codes(part) for part in vectors_ND.split(rows)]), codes_NL)


@every
def test_duplicates_share_their_codes_and_a_digit_tells_them_apart(name: str) -> None:
    vectors_ND = gaussian(25).repeat(4, 1)
    codes_NL = fit(name, vectors_ND, UNEVEN[name]).codes(vectors_ND)
    assert torch.equal(codes_NL, codes_NL[:25].repeat(4, 1))
    assert SIDTable.resolve(codes_NL, tuple(UNEVEN[name])).codebook_sizes[-1] >= 4


@every
def test_two_different_vectors_among_many_are_enough(name: str) -> None:
    vectors_ND = gaussian(2).repeat_interleave(torch.tensor([99, 1]), dim=0)
    tokenizer = fit(name, vectors_ND, UNEVEN[name])
    first, *_, last = codes_NL = tokenizer.codes(vectors_ND)
    assert torch.equal(codes_NL[:-1], first.expand(99, -1)) and not torch.equal(first, last)
    assert (tokenizer.codes(gaussian(200, seed=1)) < torch.tensor(UNEVEN[name])).all()


@pytest.mark.parametrize("name", [name for name in MAKE if name != "opq"])
def test_a_level_may_have_a_single_code(name: str) -> None:
    vectors_ND = gaussian(60)
    for sizes in ([4, 1, 4], [1]):
        codes_NL = fit(name, vectors_ND, sizes).codes(vectors_ND)
        assert [len(code_N.unique()) for code_N in codes_NL.unbind(1)] == sizes


@every
def test_as_many_codes_as_items_will_do_but_not_more(name: str) -> None:
    vectors_ND = gaussian(16)
    codes_NL = fit(name, vectors_ND, [16, 16]).codes(vectors_ND)
    assert (codes_NL < 16).all()
    with pytest.raises(UserError, match="a codebook of 32 codes needs as many items, there are 16; lower tokenizer.co"):
        fit(name, vectors_ND, [32, 32])


def test_a_sample_of_too_few_items_is_named() -> None:
    message = "a codebook of 32 codes needs as many items, tokenizer.sample=16 draws fewer; raise it or lower"
    with pytest.raises(UserError, match=message):
        require_vectors(gaussian(16), [32], sampled=True)


@every
def test_the_largest_seed_will_do(name: str) -> None:
    config = MAKE[name](UNEVEN[name], 2**31 - 1)
    config.check()
    codes_BL = config.fit(gaussian(40), Context(train=unused, collaborative=unused)).codes(gaussian(40))
    assert (codes_BL >= 0).all() and (codes_BL < torch.tensor(UNEVEN[name])).all()


def test_vectors_that_nothing_can_be_fitted_to_are_refused() -> None:
    vectors_ND = gaussian(9)
    with pytest.raises(UserError, match="all 9 item vectors are equal: .*change embed.fields"):
        require_vectors(vectors_ND[:1].expand(9, -1), [4])
    require_vectors(vectors_ND[:1], [1])
    vectors_ND[3, 2], vectors_ND[7, 0] = float("nan"), float("inf")
    with pytest.raises(UserError, match="2 item vectors hold NaN or infinity, first: row 3; look at .*embed.encoder"):
        require_vectors(vectors_ND, [4])


def test_more_product_codes_than_numbers_of_a_vector_are_refused() -> None:
    with pytest.raises(UserError, match="expected at most 12 of them, as many as a vector has numbers"):
        fit("opq", gaussian(20), [8] * 13)


@pytest.mark.parametrize(
    ("name", "sizes", "message"),
    [
        ("lsh", [8, 6], r"tokenizer.codebook_sizes=\[8, 6\]: expected powers of two"),
        ("opq", [6, 6], r"tokenizer.codebook_sizes=\[6, 6\]: expected one size for all codebooks, a power of two and"),
        ("opq", [8, 4], r"tokenizer.codebook_sizes=\[8, 4\]: expected one size for all codebooks"),
        ("opq", [1, 1], r"tokenizer.codebook_sizes=\[1, 1\]: expected .* and at least 2"),
        ("opq", [], r"tokenizer.codebook_sizes=\[\]: expected one or more sizes"),
        ("tree", [], r"tokenizer.codebook_sizes=\[\]: expected one or more sizes"),
        ("tree", [4, 0], r"tokenizer.codebook_sizes=\[4, 0\]: expected one or more sizes, each at least 1"),
    ],
)
def test_sizes_that_a_tokenizer_cannot_have_are_named_before_there_are_vectors(
    name: str, sizes: list[int], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        MAKE[name](sizes, 1).check()


def test_a_sample_is_drawn_without_repetition_in_order_and_the_same_again() -> None:
    vectors_ND = np.zeros((50, 2), np.float32)
    rows = drawn(vectors_ND, 20, seed=1)
    assert len(set(rows.tolist())) == 20 and (np.diff(rows) > 0).all() and rows[0] >= 0 and rows[-1] < 50
    assert np.array_equal(rows, drawn(vectors_ND, 20, seed=1))
    assert not np.array_equal(rows, drawn(vectors_ND, 20, seed=2))
    for everything in (0, 50, 51):
        assert np.array_equal(drawn(vectors_ND, everything, seed=1), np.arange(50))


@every
def test_a_mapped_file_gets_its_codes_in_chunks_as_at_once(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    vectors_ND = gaussian(40).numpy()
    for kept_ND in (vectors_ND, (vectors_ND * 30).astype(np.int8)):
        np.save(tmp_path / "vectors.npy", kept_ND)
        mapped_ND = np.load(tmp_path / "vectors.npy", mmap_mode="r")
        tokenizer = fit(name, torch.from_numpy(kept_ND.astype(np.float32)), UNEVEN[name])
        at_once = assign(tokenizer, mapped_ND)
        assert torch.equal(at_once, tokenizer.codes(torch.from_numpy(kept_ND.astype(np.float32))))
        for chunk in (1, 7, 40):
            monkeypatch.setattr(tokenizers, "CHUNK", chunk)
            assert torch.equal(assign(tokenizer, mapped_ND), at_once)
        monkeypatch.undo()


class Moved:
    """Notes where it is moved and where its vectors are."""

    def __init__(self) -> None:
        self.devices: list[torch.device] = []

    def to(self, device: torch.device | str) -> "Moved":
        self.devices.append(torch.device(device))
        return self

    def codes(self, vectors_BD: Tensor) -> Tensor:
        self.devices.append(vectors_BD.device)
        return vectors_BD[:, :1].long()


def test_codes_are_made_where_the_tokenizer_can_be_moved() -> None:
    moved, vectors_ND = Moved(), np.arange(6, dtype=np.float32).reshape(3, 2)
    assert assign(moved, vectors_ND, "cpu:0").tolist() == [[0], [2], [4]]
    assert moved.devices == [torch.device("cpu:0"), torch.device("cpu")]


@every
def test_a_moved_tokenizer_gives_the_same_codes(name: str) -> None:
    vectors_ND = gaussian(300)
    tokenizer = fit(name, vectors_ND, UNEVEN[name])
    assert isinstance(tokenizer, Movable) == (name in ("rqkmeans", "balanced"))
    if isinstance(tokenizer, Movable):
        assert torch.equal(tokenizer.to("cpu").codes(vectors_ND), tokenizer.codes(vectors_ND))
