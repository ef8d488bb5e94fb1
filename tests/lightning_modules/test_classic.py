"""Legend: B users, N items, C items that may be recommended, K ranks."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sid.decode import greatest, top_items


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


@settings(max_examples=200, deadline=None)
@given(st.integers(1, 4), st.integers(1, 400), st.data())
def test_the_greatest_are_those_of_a_sort(rows: int, places: int, data: st.DataObject) -> None:
    """Also among equals, infinities and in rows too short for groups."""
    num = data.draw(st.integers(1, places))
    values = data.draw(st.sampled_from([[-1.0, 0.0, 2.0, -torch.inf], [x / 7 for x in range(-400, 400)]]))
    draw = torch.Generator().manual_seed(data.draw(st.integers(0, 1000)))
    x_BC = torch.tensor(values)[torch.randint(len(values), (rows, places), generator=draw)]
    place_BK = greatest(x_BC, num)
    assert torch.equal(x_BC.gather(1, place_BK), x_BC.sort(1, descending=True).values[:, :num])
    assert all(len(set(place_K)) == num for place_K in place_BK.tolist())


def test_a_nan_among_the_greatest_is_not_hidden() -> None:
    x_BC = torch.zeros(1, 1000)
    x_BC[0, 777] = torch.nan
    assert greatest(x_BC, 3)[0, 0] == 777
