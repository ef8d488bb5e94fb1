"""Sampling beside the distribution that it should have, written out.

Legend: B users (here: draws), K items, V codes of a level, L levels.
"""

from itertools import permutations, product
from math import exp, inf

import pytest
import torch
from scipy.stats import chisquare
from torch import Tensor

from sid.decode import beam_search, top_items
from sid.sampling import Sampler, Tempered
from sid.trie import Trie

DRAWS = 20_000
CODES = torch.tensor([[0, 0], [0, 2], [1, 1], [2, 0], [2, 1], [2, 2]])


class Fixed:
    """Log-probabilities by level and last code; the state is the number of users."""

    first = torch.tensor([0.5, 0.3, 0.2]).log()
    second = torch.tensor([[0.6, 0.3, 0.1], [0.2, 0.5, 0.3], [0.1, 0.2, 0.7]]).log()

    def next_logp(
        self, state: int, level: int, codes_BK: Tensor | None, parents_BK: Tensor | None
    ) -> tuple[Tensor, int]:
        return (self.first.expand(state, 1, -1) if codes_BK is None else self.second[codes_BK]), state


def leaves(temperatures: tuple[float, float]) -> list[float]:
    """The probability of every item: normalised over the children of each prefix."""
    first = {a: exp(float(Fixed.first[a]) / temperatures[0]) for a in (0, 1, 2)}
    found = []
    for a, b in CODES.tolist():
        siblings = [y for x, y in CODES.tolist() if x == a]
        weights = {y: exp(float(Fixed.second[a, y]) / temperatures[1]) for y in siblings}
        found.append(first[a] / sum(first.values()) * weights[b] / sum(weights.values()))
    return found


def pairs(p_N: list[float]) -> dict[tuple[int, int], float]:
    """The probability of every ordered pair drawn without replacement."""
    return {(a, b): p_N[a] * p_N[b] / (1 - p_N[a]) for a, b in permutations(range(len(p_N)), 2)}


def fits(items_B2: Tensor, expected: dict[tuple[int, int], float]) -> float:
    """The p-value of the draws."""
    drawn = list(map(tuple, items_B2.tolist()))
    return float(
        chisquare([drawn.count(pair) for pair in expected], [p * len(drawn) for p in expected.values()]).pvalue
    )


@pytest.mark.parametrize("temperatures", [(1.0, 1.0), (3.0, 1.0), (1.0, 0.5)])
def test_beams_are_draws_without_replacement_from_the_items(temperatures: tuple[float, float]) -> None:
    sampler = Sampler(range(DRAWS))
    model = Tempered(Fixed(), temperatures)
    lists = beam_search(model, DRAWS, Trie.from_codes(CODES), 2, constrained=True, sampler=sampler)
    p_N = leaves(temperatures)
    assert sum(p_N) == pytest.approx(1)
    assert fits(lists.items_BK, pairs(p_N)) > 0.001
    assert torch.allclose(lists.scores_BK, torch.tensor(p_N).log()[lists.items_BK], atol=1e-5)


def test_draws_of_a_classic_model_follow_the_softmax_of_its_scores() -> None:
    score_N = torch.tensor([1.0, 0.0, -1.0, 2.0])
    lists = top_items(score_N.expand(DRAWS, -1), torch.arange(4), 2, Sampler(range(DRAWS)))
    assert fits(lists.items_BK, pairs(score_N.double().softmax(0).tolist())) > 0.001
    assert torch.equal(lists.scores_BK, score_N[lists.items_BK])


def test_all_items_come_once_and_none_beyond_them() -> None:
    lists = beam_search(Fixed(), 500, Trie.from_codes(CODES), 9, constrained=True, sampler=Sampler(range(500)))
    assert (lists.items_BK[:, :6].sort(1).values == torch.arange(6)).all()
    assert (lists.items_BK[:, 6:] == -1).all() and (lists.scores_BK[:, 6:] == -inf).all()
    assert not lists.scores_BK.isnan().any()


def test_the_seed_decides() -> None:
    def draw(*seeds: int) -> Tensor:
        tree = Trie.from_codes(CODES)
        return beam_search(Fixed(), len(seeds), tree, 3, constrained=True, sampler=Sampler(seeds)).items_BK

    assert torch.equal(draw(*range(50)), draw(*range(50))) and not torch.equal(draw(*range(50)), draw(*range(1, 51)))
    assert torch.equal(draw(7, 8, 9)[1], draw(8)[0]), "a row does not depend on its neighbours"


def test_a_code_that_is_ruled_out_is_never_drawn() -> None:
    class Ruled(Fixed):
        first = torch.tensor([0.5, 0.0, 0.5]).log()

    sampler = Sampler(range(300))
    lists = beam_search(Ruled(), 300, Trie.from_codes(CODES), 6, constrained=True, sampler=sampler)
    assert (lists.items_BK == 2).sum() == 0 and (lists.items_BK[:, -1] == -1).all()


def test_mistakes() -> None:
    with pytest.raises(ValueError, match="temperatures"):
        Tempered(Fixed(), [1.0, 0.0])
    with pytest.raises(ValueError, match="one for each row"):
        top_items(torch.zeros(2, 3), torch.arange(3), 1, Sampler([0]))
    with pytest.raises(ValueError, match="constrained"):
        beam_search(Fixed(), 1, Trie.from_codes(CODES), 2, sampler=Sampler([0]))


@pytest.mark.parametrize("prefix", [(), *product(range(4)), *product(range(4), range(4))])
def test_items_below_a_prefix(prefix: tuple[int, ...]) -> None:
    slow = [item for item, codes in enumerate(CODES.tolist()) if tuple(codes[: len(prefix)]) == prefix]
    assert Trie.from_codes(CODES).below(prefix).tolist() == slow
