"""Lists with new items among them, beside a slow twin. Legend: B users, K ranks, N items, L levels."""

from typing import NamedTuple

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from callbacks.unseen import SHARES, UnseenItems
from sid.decode import Recommendations

NUM_ITEMS, LENGTH, AT = 12, 8, [1, 3, 10]


class Batch(NamedTuple):
    target_B: Tensor


def expanded(items: list[int], prefix: list[int], new: list[bool]) -> list[int]:
    """Every answer, with the new items of its prefix behind it where that comes first."""
    result: list[int] = []
    for item in items:
        if item < 0:
            continue
        if not new[item]:
            result.append(item)
        result += [n for n in range(NUM_ITEMS) if new[n] and prefix[n] == prefix[item] and n not in result]
    return result


def cut(items: list[int], new: list[bool], rank: int, share: float) -> list[int]:
    """The top `rank`, without new items beyond the share."""
    kept: list[int] = []
    for item in items:
        if not new[item] or sum(new[one] for one in kept) + 1 <= share * rank + 1e-9:
            kept.append(item)
    return kept[:rank]


@st.composite
def cases(draw: st.DrawFn) -> tuple[list[list[int]], list[int], list[int], list[bool]]:
    places = st.permutations(list(range(NUM_ITEMS)) + [-1] * 4).map(lambda order: order[:LENGTH])
    lists = draw(st.lists(places, min_size=1, max_size=5))
    wanted = draw(st.lists(st.integers(0, NUM_ITEMS - 1), min_size=len(lists), max_size=len(lists)))
    prefix = draw(st.lists(st.integers(0, 5), min_size=NUM_ITEMS, max_size=NUM_ITEMS))
    return lists, wanted, prefix, draw(st.lists(st.booleans(), min_size=NUM_ITEMS, max_size=NUM_ITEMS))


def measured(lists: list[list[int]], wanted: list[int], codes_NL: Tensor | None, new: list[bool]) -> dict[str, float]:
    """What two processes have counted together, of which one had two batches."""
    ranks = [UnseenItems(codes_NL, torch.tensor(new), AT) for _ in range(2)]
    items_BK, target_B = torch.tensor(lists), torch.tensor(wanted)
    for batch, rank in enumerate((0, 1, 0)):
        some = slice(batch, None, 3)
        if len(target_B[some]):
            lists_BK = Recommendations(items_BK[some], torch.zeros(items_BK[some].shape), None)
            ranks[rank].update(lists_BK, Batch(target_B[some]))
    ranks[0].merge_state(ranks[1])
    return {name: value.item() for name, value in ranks[0].compute().items()}


@settings(max_examples=200, deadline=None)
@given(cases(), st.booleans())
def test_recall_equals_that_of_lists_made_one_by_one(case, with_codes: bool):
    lists, wanted, prefix, new = case
    if not with_codes:
        prefix = list(range(NUM_ITEMS))
    codes_NL = torch.tensor([[p] for p in prefix]) if with_codes else None
    found = measured(lists, wanted, codes_NL, new)
    long = [expanded(items, prefix, new) for items in lists]
    groups = {"all": list(range(len(lists))), "new": [u for u, target in enumerate(wanted) if new[target]]}
    assert found["new_targets"] == len(groups["new"])
    for who, users in groups.items():
        for share, rank in [*((share, 10) for share in SHARES), *((0.1, rank) for rank in AT)]:
            hits = sum(wanted[user] in cut(long[user], new, rank, share) for user in users)
            assert found[f"{who}_recall@{rank}/share{share:g}"] == pytest.approx(hits / max(len(users), 1))


def test_an_answer_stands_for_the_new_items_of_its_codes():
    codes_NL = torch.tensor([[1], [1], [2], [3]])
    new = [False, True, True, False]
    # The beam has items 3 and 0; item 1 is new and shares item 0's prefix, item 2 has one of its own.
    found = measured([[3, 0]] * 4, [0, 1, 2, 3], codes_NL, new)
    assert found["new_targets"] == 2
    assert found["all_recall@10/share0"] == 2 / 4
    assert found["new_recall@10/share0.1"] == 1 / 2
    assert found["new_recall@3/share0.1"] == 0.0  # a tenth of three items is none
