"""Legend: B users, K ranks, N items, C categories, L levels."""

from collections.abc import Callable
from typing import NamedTuple

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import entropy
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.functional.retrieval import retrieval_normalized_dcg, retrieval_recall

from callbacks.metrics import Coverage, EntropyDiversity, FreshRankMetrics, InvalidRate, PrefixHits, RankMetrics
from sid.decode import Recommendations

NUM_ITEMS, NUM_CATEGORIES, DEEPEST, SIZES = 30, 4, 10, (3, 2, 5)
CODES_NL = torch.cartesian_prod(*(torch.arange(size) for size in SIZES))
CATEGORY_N = torch.arange(NUM_ITEMS) % NUM_CATEGORIES
AT = [1, 3, 10]


class Batch(NamedTuple):
    target_B: Tensor
    codes_BL: Tensor
    seen_BT: Tensor


def lists_of(items: list[list[int]]) -> Recommendations:
    items_BK = torch.tensor(items)
    codes_BKL = CODES_NL[items_BK.clamp_min(0)].masked_fill((items_BK < 0)[..., None], -1)
    return Recommendations(items_BK, -torch.arange(items_BK.shape[1]).expand_as(items_BK).double(), codes_BKL)


SEEN = [3, -1, 8, 3, -1]


def targets(items: list[int]) -> Batch:
    return Batch(torch.tensor(items), CODES_NL[torch.tensor(items)], torch.tensor([SEEN] * len(items)))


Case = tuple[list[list[int]], list[int]]
# What every user is given (10 places, some of them empty) and wanted. A list names no item twice.
user_lists = st.permutations(list(range(NUM_ITEMS)) + [-1] * 10).map(lambda order: order[:DEEPEST])
cases = st.lists(st.tuples(user_lists, st.integers(0, NUM_ITEMS - 1)), min_size=1, max_size=12).map(
    lambda users: tuple(list(column) for column in zip(*users, strict=True))
)

METRICS: dict[str, Callable[[], Metric]] = {
    "rank": lambda: RankMetrics(AT, AT),
    "fresh": lambda: FreshRankMetrics(AT, AT),
    "entropy": lambda: EntropyDiversity(CATEGORY_N, AT),
    "coverage": lambda: Coverage(NUM_ITEMS, 5),
    "prefix": lambda: PrefixHits(len(SIZES), 5),
    "invalid": lambda: InvalidRate(AT),
}


def value(metric: Metric, lists: list[list[int]], wanted: list[int]) -> dict[str, float]:
    metric.update(lists_of(lists), targets(wanted))
    return {name: tensor.item() for name, tensor in metric.compute().items()}


def test_recall_and_ndcg_of_four_users() -> None:
    lists = [[7, 1, 2], [1, 7, 2], [1, 2, 3], [-1, -1, 7]]
    named = value(RankMetrics([1, 3], [3]), lists, [7, 7, 7, 7])  # ranks 1, 2, none, 3
    assert named["recall@1"] == 1 / 4
    assert named["recall@3"] == 3 / 4
    assert named["ndcg@3"] == pytest.approx((1 + 0.63092975 + 0.5) / 4)  # 1 / log2 of 2, 3, 4


@settings(max_examples=50, deadline=None)
@given(cases)
def test_fresh_metrics_are_those_of_the_lists_without_what_was_seen(case: Case) -> None:
    lists, wanted = case
    left = [[item for item in items if item not in SEEN] for items in lists]
    slow = value(RankMetrics(AT, AT), [[*items, *[-1] * (DEEPEST - len(items))] for items in left], wanted)
    assert value(FreshRankMetrics(AT, AT), lists, wanted) == {f"fresh_{name}": number for name, number in slow.items()}


@settings(max_examples=50, deadline=None)
@given(cases)
def test_recall_and_ndcg_equal_torchmetrics_retrieval(case: Case) -> None:
    lists, wanted = case
    ours = value(RankMetrics(AT, AT), lists, wanted)
    expected = dict.fromkeys(ours, 0.0)
    for items, target in zip(lists, wanted, strict=True):
        # A score a document: what is not listed comes last; behind the items stands one document an empty place.
        scores = -torch.arange(1.0, NUM_ITEMS + DEEPEST + 1)
        for rank, item in enumerate(items):
            scores[item if item >= 0 else NUM_ITEMS + rank] = DEEPEST - rank
        relevant = torch.arange(NUM_ITEMS + DEEPEST) == target
        for k in AT:
            expected[f"recall@{k}"] += retrieval_recall(scores, relevant, top_k=k).item() / len(lists)
            expected[f"ndcg@{k}"] += retrieval_normalized_dcg(scores, relevant, top_k=k).item() / len(lists)
    assert ours == pytest.approx(expected, abs=1e-6)


@settings(max_examples=50, deadline=None)
@given(cases)
def test_entropy_equals_scipys_of_the_listed_categories(case: Case) -> None:
    lists, wanted = case
    expected = dict.fromkeys([f"entropy@{k}" for k in AT], 0.0)
    for items in lists:
        for k in AT:
            categories = [int(CATEGORY_N[item]) for item in items[:k] if item >= 0]
            counts = [categories.count(c) for c in range(NUM_CATEGORIES)]
            expected[f"entropy@{k}"] += float(entropy(counts)) / len(lists) if categories else 0.0
    assert value(EntropyDiversity(CATEGORY_N, AT), lists, wanted) == pytest.approx(expected, abs=1e-8)


@settings(max_examples=50, deadline=None)
@given(cases)
def test_coverage_counts_the_distinct_items_of_the_top(case: Case) -> None:
    lists, wanted = case
    seen = {item for items in lists for item in items[:5]} - {-1}
    assert value(Coverage(NUM_ITEMS, 5), lists, wanted) == {"coverage@5": len(seen) / NUM_ITEMS}
    assert value(Coverage(NUM_ITEMS, 5, 100), lists, wanted) == {"coverage@5": len(seen) / 100}


@settings(max_examples=50, deadline=None)
@given(cases)
def test_invalid_rate_counts_the_empty_places(case: Case) -> None:
    lists, wanted = case
    expected = {f"invalid@{k}": sum(items[:k].count(-1) for items in lists) / (len(lists) * k) for k in AT}
    assert value(InvalidRate(AT), lists, wanted) == pytest.approx(expected)


@settings(max_examples=50, deadline=None)
@given(cases)
def test_prefix_hits_equal_a_loop(case: Case) -> None:
    lists, wanted = case

    def starts_alike(item: int, target: int, length: int) -> bool:
        return item >= 0 and CODES_NL[item, :length].tolist() == CODES_NL[target, :length].tolist()

    users = list(zip(lists, wanted, strict=True))
    expected = {
        f"prefix@{k}/level{level}": sum(any(starts_alike(i, t, level) for i in items[:k]) for items, t in users)
        / len(users)
        for k in (1, 5)
        for level in (1, 2, 3)
    }
    assert value(PrefixHits(len(SIZES), 5), lists, wanted) == pytest.approx(expected)


def test_two_items_with_the_same_first_codes_are_two_items() -> None:
    assert CODES_NL[[0, 1]].tolist() == [[0, 0, 0], [0, 0, 1]]
    assert value(RankMetrics([1], [1]), [[0]], [1]) == {"recall@1": 0, "ndcg@1": 0}
    hits = value(PrefixHits(3, 1), [[0]], [1])
    assert hits == {"prefix@1/level1": 1, "prefix@1/level2": 1, "prefix@1/level3": 0}


def test_a_model_without_codes_has_no_prefix_hits() -> None:
    metric = PrefixHits(3, 1)
    metric.update(lists_of([[0]])._replace(codes_BKL=None), targets([0]))
    assert metric.compute() == {}


@pytest.mark.parametrize("name", METRICS)
def test_a_score_or_a_tie_between_scores_changes_nothing_only_the_order_counts(name: str) -> None:
    lists, wanted = lists_of([[3, 4, 5], [6, -1, -1]]), targets([4, 6])
    one, tied = METRICS[name](), METRICS[name]()
    one.update(lists, wanted)
    tied.update(lists._replace(scores_BK=torch.zeros(2, 3)), wanted)
    assert one.compute() == tied.compute()


@pytest.mark.parametrize("name", METRICS)
def test_without_an_update_every_figure_is_zero(name: str) -> None:
    # A figure of no users, not a division by zero. (torchmetrics itself warns.)
    with pytest.warns(UserWarning, match="before the ``update`` method"):
        assert all(tensor == 0 for tensor in METRICS[name]().compute().values())


@pytest.mark.parametrize("name", METRICS)
@settings(max_examples=50, deadline=None)
@given(cases, st.integers(0, 12))
def test_two_parts_summed_equal_the_whole_bit_for_bit(name: str, case: Case, cut: int) -> None:
    lists, wanted = case
    whole, summed = METRICS[name](), METRICS[name]()
    whole.update(lists_of(lists), targets(wanted))
    for part in (slice(cut, None), slice(cut)):  # the later users first: order does not matter either
        if lists[part]:
            process = METRICS[name]()
            process.update(lists_of(lists[part]), targets(wanted[part]))
            for state, reduce in summed._reductions.items():
                setattr(summed, state, reduce(torch.stack([getattr(summed, state), getattr(process, state)])))
    summed._update_count = 1
    assert summed.compute() == whole.compute()
    assert all(not tensor.is_floating_point() for tensor in whole.metric_state.values())
