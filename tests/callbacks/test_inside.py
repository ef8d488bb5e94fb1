"""Legend: B users, K beams, L levels, G layers."""

import pytest
import torch

from callbacks.inside import BeamRanks, Insight
from datamodules.batch import SequenceBatch
from models.inside import Inside
from sid.decode import FirstCodeGiven, beam_search
from sid.trie import Trie

CODES = torch.cartesian_prod(*(torch.arange(3),) * 3)


def batch(codes_BL: torch.Tensor) -> SequenceBatch:
    nothing = torch.zeros(len(codes_BL), 0, dtype=torch.long)
    return SequenceBatch(nothing, codes_BL, nothing, torch.zeros(len(codes_BL)), torch.arange(len(codes_BL)))


class Fixed:
    """A model whose log-probabilities of a level never change."""

    def __init__(self, logp_LV: torch.Tensor, users: int) -> None:
        self.logp_LV, self.users = logp_LV.log_softmax(1), users

    def next_logp(self, state, level, codes_BK, parents_BK):
        beams = 1 if codes_BK is None else codes_BK.shape[1]
        return self.logp_LV[level].expand(self.users, beams, -1), state


def test_the_trace_holds_every_level_and_the_ranks_count_it() -> None:
    codes_BL = torch.tensor([[0, 0, 0], [0, 1, 0], [2, 2, 2]])
    model, trace = Fixed(torch.tensor([[3.0, 2.0, 0.0]] * 3), 3), []
    best = beam_search(model, None, Trie.from_codes(CODES), 3, trace=trace)
    assert [tuple(t.shape) for t in trace] == [(3, 3, 1), (3, 3, 2), (3, 3, 3)]
    assert torch.equal(trace[-1], best.codes_BKL)
    metric = BeamRanks(3)
    metric.update(trace, batch(codes_BL))
    found = {name: float(value) for name, value in metric.compute().items()}
    ranks = []
    for level in range(3):
        beams = trace[level][0].tolist()
        targets = codes_BL[:, : level + 1].tolist()
        ranks.append([beams.index(target) + 1 for target in targets if target in beams])
    for level, placed in enumerate(ranks, 1):
        assert found[f"in_beam/level{level}"] == pytest.approx(len(placed) / 3)
        assert found[f"beam_rank/level{level}"] == pytest.approx(sum(placed) / len(placed))


@pytest.mark.parametrize("constrained", [False, True])
def test_a_told_first_code_leaves_only_items_that_have_it(constrained: bool) -> None:
    first_B = torch.tensor([2, 0])
    model = FirstCodeGiven(Fixed(torch.randn(3, 3), 2), first_B)
    best = beam_search(model, None, Trie.from_codes(CODES), 12, constrained)
    real_BK = best.items_BK >= 0
    assert real_BK.sum(1).tolist() == [9, 9]
    assert (best.codes_BKL[..., 0] == first_B[:, None])[real_BK].all()


def test_insight_is_a_mean_over_users_and_leaves_those_without_a_find_out_of_the_gates() -> None:
    right_BL = torch.tensor([[True, False], [True, True], [False, False], [True, False]])
    found_B = torch.tensor([0, 2, 3, 20])
    gate_GB = torch.tensor([[0.0, 0.2, 0.4, 0.9], [0.0, 0.6, 0.4, 0.1]])
    metric = Insight(2, 2)
    own_B = torch.tensor([0, 0, 3, 20])
    metric.update(Inside(torch.tensor(1.0), right_BL[:3], found_B[:3], own_B[:3], gate_GB[:, :3]))
    metric.update(Inside(torch.tensor(1.0), right_BL[3:], found_B[3:], own_B[3:], gate_GB[:, 3:]))
    found = {name: pytest.approx(float(value)) for name, value in metric.compute().items()}
    assert found == {
        "accuracy/level1": 0.75,
        "accuracy/level2": 0.25,
        "search/empty_bucket": 0.5,
        "search/nothing": 0.25,
        "gate/layer1": 0.5,
        "gate/layer2": pytest.approx(1.1 / 3),
        "gate/found_1-5": 0.4,
        "gate/found_16+": 0.5,
    }


def test_a_model_without_a_search_has_accuracies_alone() -> None:
    metric = Insight(2)
    metric.update(Inside(torch.tensor(1.0), torch.tensor([[True, False]]), None, None, None))
    assert metric.compute() == {"accuracy/level1": 1.0, "accuracy/level2": 0.0}
