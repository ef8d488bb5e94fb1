"""Legend: B users, K beams, V codes of a level, L levels, N items."""

from math import exp, inf, log, prod
from typing import NamedTuple

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from sid.decode import Recommendations, beam_search, recommended
from sid.trie import FreeTree, Trie


class Written(NamedTuple):
    """The state of a `Lookup`: what it was told, level by level."""

    prefix_BKL: Tensor


class Lookup:
    """A model that looks the next log-probabilities up by the whole prefix that it was told to have written.

    A search that hands over wrong parents or codes gets the rows of other prefixes.
    """

    def __init__(self, sizes: tuple[int, ...], logp: list[Tensor]) -> None:
        self.sizes, self.logp, self.written = sizes, logp, []

    @classmethod
    def random(cls, sizes: tuple[int, ...], users: int, seed: int) -> "Lookup":
        draw = torch.Generator().manual_seed(seed)
        shapes = [(users, prod(sizes[:level]), size) for level, size in enumerate(sizes)]
        return cls(sizes, [torch.randn(s, generator=draw, dtype=torch.double).log_softmax(-1) for s in shapes])

    def begin(self) -> Written:
        return Written(torch.zeros(len(self.logp[0]), 1, 0, dtype=torch.long))

    def next_logp(
        self, state: Written, level: int, codes_BK: Tensor | None, parents_BK: Tensor | None
    ) -> tuple[Tensor, Written]:
        prefix_BKL = state.prefix_BKL
        assert prefix_BKL.shape[2] == max(level - 1, 0)
        if level == 0:
            assert codes_BK is None and parents_BK is None
        else:
            assert codes_BK is not None and parents_BK is not None
            users_B1 = torch.arange(len(prefix_BKL))[:, None]
            prefix_BKL = torch.cat([prefix_BKL[users_B1, parents_BK], codes_BK[..., None]], dim=2)
        self.written.append(prefix_BKL)
        row_BK = torch.zeros(prefix_BKL.shape[:2], dtype=torch.long)
        for place in range(level):
            row_BK = row_BK * self.sizes[place] + prefix_BKL[..., place]
        return self.logp[level][torch.arange(len(row_BK))[:, None], row_BK], Written(prefix_BKL)

    def logp_of(self, user: int, codes: tuple[int, ...]) -> float:
        """The log-probability of the last code after the ones before it."""
        row = 0
        for size, code in zip(self.sizes, codes[:-1], strict=False):
            row = row * size + code
        return self.logp[len(codes) - 1][user, row, codes[-1]].item()

    def likelihood(self, user: int, codes: tuple[int, ...]) -> float:
        return sum(self.logp_of(user, codes[: level + 1]) for level in range(len(codes)))


Beam = tuple[float, tuple[int, ...]]


def slow_beam_search(model: Lookup, user: int, allowed: list[tuple[int, ...]], num_beams: int) -> list[Beam]:
    """The slow twin: sorted Python lists; a prefix may be written if an allowed sequence starts with it."""
    beams: list[Beam] = [(0.0, ())]
    for level in range(len(model.sizes)):
        prefixes = {codes[: level + 1] for codes in allowed}
        longer = [
            (score + model.logp_of(user, (*codes, code)), (*codes, code))
            for score, codes in beams
            for code in range(model.sizes[level])
            if (*codes, code) in prefixes
        ]
        beams = sorted(longer, reverse=True)[:num_beams]
    return beams


def slow_constrained(model: Lookup, user: int, allowed: list[tuple[int, ...]], num_beams: int) -> list[list[Beam]]:
    """The slow twin of the constrained search: the beams before every level, and at the end. A code's probability is
    its share among the codes that continue the prefix."""
    beams: list[list[Beam]] = [[(0.0, ())]]
    for level in range(len(model.sizes)):
        longer = []
        for score, codes in beams[-1]:
            after = {(*codes, c[level]) for c in allowed if c[:level] == codes}
            total = sum(exp(model.logp_of(user, longer_codes)) for longer_codes in after)
            longer += [(score + log(exp(model.logp_of(user, c)) / total), c) for c in after]
        beams.append(sorted(longer, reverse=True)[:num_beams])
    return beams


def check(found: Recommendations, user: int, expected: list[Beam], items: dict[tuple[int, ...], int]) -> None:
    assert found.codes_BKL is not None
    padding = found.items_BK.shape[1] - len(expected)
    assert found.items_BK[user].tolist() == [items.get(codes, -1) for _, codes in expected] + [-1] * padding
    assert [tuple(codes) for codes in found.codes_BKL[user, : len(expected)].tolist()] == [c for _, c in expected]
    assert found.scores_BK[user].tolist() == pytest.approx([score for score, _ in expected] + [-inf] * padding)


@st.composite
def problems(draw: st.DrawFn) -> tuple[Lookup, list[tuple[int, ...]]]:
    """A random model of two users and some items in random order."""
    sizes = tuple(draw(st.lists(st.integers(1, 4), min_size=1, max_size=4)))
    numbers = draw(st.lists(st.integers(0, prod(sizes) - 1), min_size=1, max_size=25, unique=True))
    every = torch.cartesian_prod(*(torch.arange(size) for size in sizes)).view(-1, len(sizes)).tolist()
    return Lookup.random(sizes, 2, draw(st.integers(0, 10**6))), [tuple(every[n]) for n in numbers]


@settings(max_examples=50, deadline=None)
@given(problems(), st.integers(1, 30))
def test_beam_search_equals_the_slow_one_at_every_width(
    problem: tuple[Lookup, list[tuple[int, ...]]], width: int
) -> None:
    model, codes = problem
    found = beam_search(model, model.begin(), Trie.from_codes(torch.tensor(codes)), width)
    assert found.items_BK.shape == found.scores_BK.shape == (2, width)
    for user in range(2):
        items = {c: i for i, c in enumerate(codes)}
        check(found, user, slow_beam_search(model, user, codes, width), items)


@settings(max_examples=50, deadline=None)
@given(problems())
def test_with_as_many_beams_as_items_it_ranks_like_scoring_every_item(
    problem: tuple[Lookup, list[tuple[int, ...]]],
) -> None:
    model, codes = problem
    found = beam_search(model, model.begin(), Trie.from_codes(torch.tensor(codes)), len(codes))
    for user in range(2):
        scored = sorted(((model.likelihood(user, c), i) for i, c in enumerate(codes)), reverse=True)
        assert found.items_BK[user].tolist() == [item for _, item in scored]
        assert found.scores_BK[user].tolist() == pytest.approx([score for score, _ in scored])


class Judging(Lookup):
    """A model that also judges whole items (B, N)."""

    worth_BN: Tensor

    def worth(self, state: Written) -> Tensor:
        return self.worth_BN


def judged(problem: tuple[Lookup, list[tuple[int, ...]]], strength: float) -> tuple[Judging, list[tuple[int, ...]]]:
    (plain, codes), draw = problem, torch.Generator().manual_seed(5)
    model = Judging(plain.sizes, plain.logp)
    model.worth_BN = strength * torch.randn(2, len(codes), generator=draw, dtype=torch.double)
    return model, codes


@settings(max_examples=50, deadline=None)
@given(problems(), st.integers(1, 30), st.sampled_from([0.3, 3.0]))
def test_a_search_led_by_whole_items_equals_the_slow_one_at_every_width(
    problem: tuple[Lookup, list[tuple[int, ...]]], width: int, strength: float
) -> None:
    model, codes = judged(problem, strength)
    found = recommended(model, model.begin(), Trie.from_codes(torch.tensor(codes)), width)
    for user in range(2):
        worth = dict(zip(codes, model.worth_BN[user].tolist(), strict=True))
        beams: list[Beam] = [(0.0, ())]
        for level in range(len(model.sizes)):
            longer = {c[: level + 1] for c in codes if c[:level] in {written for _, written in beams}}
            scored = [
                (model.likelihood(user, c) + max(w for other, w in worth.items() if other[: level + 1] == c), c)
                for c in longer
            ]
            beams = sorted(scored, reverse=True)[:width]
        check(found, user, beams, {c: i for i, c in enumerate(codes)})


@settings(max_examples=50, deadline=None)
@given(problems(), st.integers(1, 5))
def test_items_that_are_worth_more_than_all_likelihood_are_never_given_up(
    problem: tuple[Lookup, list[tuple[int, ...]]], width: int
) -> None:
    model, codes = judged(problem, 1e6)
    found = recommended(model, model.begin(), Trie.from_codes(torch.tensor(codes)), width)
    most = min(width, len(codes))
    assert torch.equal(found.items_BK[:, :most], model.worth_BN.topk(most).indices)


@settings(max_examples=50, deadline=None)
@given(problems(), st.integers(1, 30))
def test_a_free_beam_equals_the_slow_one_and_calls_what_is_no_item_minus_one(
    problem: tuple[Lookup, list[tuple[int, ...]]], width: int
) -> None:
    model, codes = problem
    found = beam_search(model, model.begin(), FreeTree(model.sizes, Trie.from_codes(torch.tensor(codes))), width)
    every = torch.cartesian_prod(*(torch.arange(size) for size in model.sizes)).view(-1, len(model.sizes)).tolist()
    for user in range(2):
        expected = slow_beam_search(model, user, [tuple(c) for c in every], width)
        check(found, user, expected, {c: i for i, c in enumerate(codes)})


@settings(max_examples=30, deadline=None)
@given(problems(), st.integers(1, 8))
def test_the_model_is_told_the_prefixes_that_come_out(
    problem: tuple[Lookup, list[tuple[int, ...]]], width: int
) -> None:
    model, codes = problem
    found = beam_search(model, model.begin(), Trie.from_codes(torch.tensor(codes)), width)
    assert found.codes_BKL is not None
    assert len(model.written) == len(model.sizes)  # one call a level
    assert model.written[0].shape == (2, 1, 0)  # the first on a single beam
    for user in range(2):
        told = {tuple(prefix) for prefix in model.written[-1][user].tolist()}
        real = found.codes_BKL[user][found.items_BK[user] >= 0].tolist()
        assert {tuple(c[:-1]) for c in real} <= told


def test_a_score_is_the_models_own_likelihood_and_not_one_renormalised_over_the_siblings() -> None:
    first = torch.tensor([[[0.4, 0.6]]]).log()
    second = torch.tensor([[[0.5, 0.5], [0.45, 0.55]]]).log()
    model = Lookup((2, 2), [first, second])
    tree = Trie.from_codes(torch.tensor([[0, 0], [1, 0], [1, 1]]))  # (0, 1) is no item
    found = beam_search(model, model.begin(), tree, 3)
    # Ours: (1,1) .6 * .55 = .33, (1,0) .6 * .45 = .27, (0,0) .4 * .5 = .2.
    # Masked before the softmax (0,0) would have .4 * 1 and lead.
    assert found.items_BK.tolist() == [[2, 1, 0]]
    assert found.scores_BK[0].tolist() == pytest.approx([log(0.33), log(0.27), log(0.2)], rel=1e-5)


@pytest.mark.parametrize("constrained", [False, True])
def test_fewer_items_than_beams_leave_the_rest_empty(constrained: bool) -> None:
    model = Lookup.random((3, 2), 1, seed=0)
    found = beam_search(model, model.begin(), Trie.from_codes(torch.tensor([[2, 1], [0, 0]])), 5, constrained)
    assert sorted(found.items_BK[0, :2].tolist()) == [0, 1]
    assert found.items_BK[0, 2:].tolist() == [-1, -1, -1]
    assert found.scores_BK[0, 2:].tolist() == [-inf] * 3


@pytest.mark.parametrize("constrained", [False, True])
def test_beams_that_fill_up_hold_no_codes(constrained: bool) -> None:
    """Of [0, 0], [1, 0] and [1, 1] the first has one child where the level is two wide: a place for no prefix."""
    trace: list[Tensor] = []
    model, trie = Lookup.random((2, 2), 3, seed=0), Trie.from_codes(torch.tensor([[0, 0], [1, 0], [1, 1]]))
    found = beam_search(model, model.begin(), trie, 5, constrained, trace)
    assert found.codes_BKL is not None
    for codes_BKl, prefixes in ((trace[0], 2), (trace[1], 3), (found.codes_BKL, 3)):
        for beams in codes_BKl.tolist():
            assert len({tuple(codes) for codes in beams[:prefixes] if -1 not in codes}) == prefixes
            assert all(code == -1 for codes in beams[prefixes:] for code in codes)


@pytest.mark.parametrize("constrained", [False, True])
def test_an_item_that_the_model_rules_out_is_not_recommended(constrained: bool) -> None:
    model = Lookup((2,), [torch.tensor([[[0.0, -inf]]])])
    found = beam_search(model, model.begin(), Trie.from_codes(torch.tensor([[0], [1]])), 2, constrained)
    assert found.items_BK.tolist() == [[0, -1]]


@settings(max_examples=50, deadline=None)
@given(problems(), st.integers(1, 30))
def test_a_constrained_search_equals_the_slow_one_at_every_width(
    problem: tuple[Lookup, list[tuple[int, ...]]], width: int
) -> None:
    model, codes = problem
    found = beam_search(model, model.begin(), Trie.from_codes(torch.tensor(codes)), width, constrained=True)
    assert found.items_BK.shape == found.scores_BK.shape == (2, width)
    for user in range(2):
        check(found, user, slow_constrained(model, user, codes, width)[-1], {c: i for i, c in enumerate(codes)})


@settings(max_examples=50, deadline=None)
@given(problems(), st.integers(0, 3))
def test_the_constrained_probabilities_of_all_items_sum_to_one(
    problem: tuple[Lookup, list[tuple[int, ...]]], more: int
) -> None:
    model, codes = problem
    tree = Trie.from_codes(torch.tensor(codes))
    found = beam_search(model, model.begin(), tree, len(codes) + more, constrained=True)
    torch.testing.assert_close(found.scores_BK.exp().sum(1), torch.ones(2, dtype=torch.double))
    assert [sorted(items) for items in found.items_BK.tolist()] == [[-1] * more + list(range(len(codes)))] * 2


@settings(max_examples=50, deadline=None)
@given(problems(), st.integers(1, 30))
def test_a_constrained_search_asks_about_prefixes_of_several_items_alone(
    problem: tuple[Lookup, list[tuple[int, ...]]], width: int
) -> None:
    """And about as many a user as the user with the most of them has: rows belong to no one else."""
    model, codes = problem
    beam_search(model, model.begin(), Trie.from_codes(torch.tensor(codes)), width, constrained=True)
    beams = [slow_constrained(model, user, codes, width) for user in range(2)]
    asked = [1]  # the first step runs on one beam, whatever the catalogue
    for level in range(1, len(model.sizes)):
        wanted = [{prefix for _, prefix in own[level] if sum(c[:level] == prefix for c in codes) > 1} for own in beams]
        most = max(len(prefixes) for prefixes in wanted)
        if most == 0:
            break
        asked.append(most)
        told = model.written[level].tolist()
        assert all(prefixes <= set(map(tuple, rows)) for prefixes, rows in zip(wanted, told, strict=True))
    assert [written.shape[1] for written in model.written] == asked


def test_a_constrained_score_is_renormalised_over_the_siblings_and_ranks_otherwise() -> None:
    first = torch.tensor([[[0.4, 0.6]]]).log()
    second = torch.tensor([[[0.5, 0.5], [0.45, 0.55]]]).log()
    model = Lookup((2, 2), [first, second])
    tree = Trie.from_codes(torch.tensor([[0, 0], [1, 0], [1, 1]]))  # (0, 1) is no item
    found = beam_search(model, model.begin(), tree, 3, constrained=True)
    # (0,0) .4 * 1 = .4 leads; (1,1) .6 * .55 = .33, (1,0) .6 * .45 = .27.
    assert found.items_BK.tolist() == [[0, 2, 1]]
    assert found.scores_BK[0].tolist() == pytest.approx([log(0.4), log(0.33), log(0.27)], rel=1e-5)
    assert model.written[1].tolist() == [[[1]]]  # 0 has one item left


def test_a_catalogue_of_one_item_is_certain_after_one_question() -> None:
    model = Lookup.random((3, 2, 4), 2, seed=0)
    found = beam_search(model, model.begin(), Trie.from_codes(torch.tensor([[2, 1, 3]])), 3, constrained=True)
    assert found.items_BK.tolist() == [[0, -1, -1]] * 2
    assert found.scores_BK.tolist() == [[0, -inf, -inf]] * 2
    assert found.codes_BKL is not None and found.codes_BKL[:, 0].tolist() == [[2, 1, 3]] * 2
    assert len(model.written) == 1


@settings(max_examples=30, deadline=None)
@given(problems(), st.integers(1, 30))
def test_a_constrained_search_of_every_sequence_is_a_free_one(
    problem: tuple[Lookup, list[tuple[int, ...]]], width: int
) -> None:
    model, codes = problem
    tree = FreeTree(model.sizes, Trie.from_codes(torch.tensor(codes)))
    free, constrained = (beam_search(model, model.begin(), tree, width, constrained=c) for c in (False, True))
    assert torch.equal(free.items_BK, constrained.items_BK)
    torch.testing.assert_close(free.scores_BK, constrained.scores_BK)
