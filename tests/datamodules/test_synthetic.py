"""U users, N items, C categories, M events, E examples."""

import math

import numpy as np
import pytest

from datamodules.catalog import Catalog
from datamodules.split import Examples, SplitConfig
from datamodules.synthetic import SyntheticConfig
from sid.errors import UserError

STATED_FACTOR = 3


def recall_at_10(ranked_E10: np.ndarray, catalog: Catalog, examples: Examples) -> float:
    return float((ranked_E10 == catalog.item_M[examples.target_E][:, None]).any(1).mean())


def oracle(config: SyntheticConfig, catalog: Catalog, count_N: np.ndarray, examples: Examples) -> np.ndarray:
    """The unseen sequel of the last item, then the most popular unseen items of the user's commonest category."""
    category_N = np.arange(catalog.num_items) % config.num_categories
    ranked = []
    for user, target, _ in zip(*examples, strict=True):
        history = catalog.item_M[catalog.offsets_U1[user] : target]
        favourite = np.bincount(category_N[history]).argmax()
        score_N = count_N + 1e3 * (category_N == favourite)
        sequel = config.sequels()[history[-1]]
        if sequel >= 0:
            score_N[sequel] = 1e6
        score_N[history] = -1
        ranked.append(np.argsort(-score_N)[:10])
    return np.array(ranked)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_knowing_the_structure_beats_popularity_by_more_than_the_stated_factor(seed: int):
    config = SyntheticConfig(seed=seed)
    catalog = config.build()
    train, _, test = SplitConfig().build(catalog)
    count_N = np.bincount(catalog.item_M[train.target_E], minlength=catalog.num_items).astype(float)
    popular_E10 = np.tile(np.argsort(-count_N)[:10], (len(test.user_E), 1))
    popularity = recall_at_10(popular_E10, catalog, test)
    assert 0.05 < popularity < 0.15
    assert recall_at_10(oracle(config, catalog, count_N, test), catalog, test) > 2 * STATED_FACTOR * popularity


def test_every_user_has_five_events_in_time_order_and_no_item_twice():
    catalog = SyntheticConfig().build()
    assert catalog.num_users == 400 and catalog.num_items == 200
    assert np.diff(catalog.offsets_U1).min() >= 5
    for a, b in zip(catalog.offsets_U1[:-1], catalog.offsets_U1[1:], strict=True):
        assert len(set(catalog.item_M[a:b])) == b - a
        assert (np.diff(catalog.time_M[a:b]) >= 0).all()


def test_the_same_seed_gives_the_same_catalogue():
    one, same, other = (SyntheticConfig(seed=s).build() for s in (3, 3, 4))
    assert one.items.equals(same.items)
    assert (one.item_M == same.item_M).all() and (one.time_M == same.time_M).all()
    assert len(one.item_M) != len(other.item_M) or (one.item_M != other.item_M).any()


def test_sequels_follow_often_and_carry_the_next_part_number():
    config = SyntheticConfig()
    catalog = config.build()
    sequel_N = config.sequels()
    titles = catalog.items["title"].to_pylist()
    first = int(np.flatnonzero(sequel_N >= 0)[0])
    assert titles[first].replace("Part 1", "Part 2") == titles[sequel_N[first]]
    steps_M = np.flatnonzero(sequel_N[catalog.item_M[:-1]] >= 0)
    assert (catalog.item_M[steps_M + 1] == sequel_N[catalog.item_M[steps_M]]).mean() > 0.4


def test_a_category_has_words_of_its_own():
    items = SyntheticConfig().build().items.to_pylist()
    words: dict[str, set[str]] = {}
    for item in items:
        words.setdefault(item["category"], set()).update(item["text"].split(": ")[1].split())
    assert len(words) == 8 and len(set.union(*words.values())) == sum(map(len, words.values()))


def test_uneven_sizes_work_and_impossible_ones_are_named():
    catalog = SyntheticConfig(num_users=7, num_items=71, num_categories=7, mean_length=5).build()
    assert catalog.item_M.max() < 71
    with pytest.raises(UserError, match="num_categories is 13; expected 1 to 12"):
        SyntheticConfig(num_categories=13).build()
    with pytest.raises(UserError, match="num_items is 79; 8 categories need at least 80"):
        SyntheticConfig(num_items=79).build()
    for name, value in (("mean_length", math.nan), ("series_length", 0), ("seasonal_share", 5.0), ("seed", -1)):
        with pytest.raises(UserError, match=f"data.{name}={value}: expected"):
            SyntheticConfig(**{name: value}).build()
