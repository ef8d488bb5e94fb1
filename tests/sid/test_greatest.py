"""Legend: B rows, C places, K ranks."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sid.decode import GROUP, greatest


@settings(max_examples=200, deadline=None)
@given(st.integers(1, 4), st.integers(1, 400), st.data())
def test_the_greatest_are_those_of_a_sort(rows: int, places: int, data: st.DataObject) -> None:
    """Also among equals, infinities and in rows too short for groups."""
    few = data.draw(st.booleans())
    num = data.draw(st.integers(1, max(1, places // (2 * GROUP)) if few else places))
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
