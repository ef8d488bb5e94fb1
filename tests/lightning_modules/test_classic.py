"""Legend: B users, N items, C items that may be recommended, K ranks."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sid.decode import top_items


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 12), st.integers(1, 15), st.data())
def test_top_items_are_the_best_of_those_that_may_be_recommended(
    seed: int, num_items: int, k: int, data: st.DataObject
) -> None:
    draw = torch.Generator().manual_seed(seed)
    scores_BN = torch.randperm(3 * num_items, generator=draw).view(3, num_items).float()
    scores_BN[torch.rand(3, num_items, generator=draw) < 0.2] = -torch.inf
    allowed = data.draw(st.sets(st.integers(0, num_items - 1), min_size=1))
    lists = top_items(scores_BN, torch.tensor(sorted(allowed)), k)
    assert lists.items_BK.shape == lists.scores_BK.shape == (3, k)
    assert lists.codes_BKL is None
    for row, scores in enumerate(scores_BN.tolist()):
        best = sorted((item for item in allowed if scores[item] > -torch.inf), key=lambda item: -scores[item])[:k]
        assert lists.items_BK[row].tolist() == best + [-1] * (k - len(best))
        assert lists.scores_BK[row, : len(best)].tolist() == [scores[item] for item in best]
        assert (lists.scores_BK[row, len(best) :] == -torch.inf).all()
