"""Legend: N items, K neighbours."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from models import neighbours
from models.neighbours import nearest_items


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
