"""U users, N items, X targets, T events of a history."""

from typing import Any

import numpy as np
import pytest

from datamodules.catalog import Catalog
from datamodules.split import SplitConfig
from datamodules.synthetic_long import LongInterestConfig
from sid.errors import UserError

CONFIG = LongInterestConfig()
PLACES = CONFIG.num_categories * CONFIG.series
CHANCE = 10 / CONFIG.num_items


def divided(catalog: Catalog, config: LongInterestConfig = CONFIG) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(U, T) the old and the recent events, and (U, X) the targets."""
    item_UT = catalog.item_M.reshape(config.num_users, -1)
    recent = config.old_events + config.recent_events
    return item_UT[:, : config.old_events], item_UT[:, config.old_events : recent], item_UT[:, recent:]


def place_of(item: np.ndarray, config: LongInterestConfig = CONFIG) -> np.ndarray:
    """The category and series of items, as one number."""
    return item // config.parts


def test_users_items_events_and_parts_are_as_many_as_asked_for() -> None:
    catalog = CONFIG.build()
    assert catalog.num_items == CONFIG.num_items == 12 * 6 * 8
    assert catalog.num_users == 1200 and catalog.num_events == 1200 * (100 + 50 + 4)
    assert set(np.diff(catalog.offsets_U1)) == {154}
    assert catalog.item_M.dtype == np.int32 and catalog.item_M.min() == 0 and catalog.item_M.max() == 575
    assert (np.diff(catalog.time_M.reshape(1200, -1), axis=1) > 0).all()
    users = catalog.users.to_pylist()
    assert [user["part"] for user in users] == ["train"] * 960 + ["test"] * 240
    assert {user["targets"] for user in users} == {4}
    items = catalog.items.to_pylist()
    assert len({item["item"] for item in items}) == len({item["title"] for item in items}) == 576
    assert len({item["category"] for item in items}) == 12
    assert len({tuple(item["categories"]) for item in items}) == PLACES


def test_items_of_a_series_share_their_category_and_all_but_the_part_of_their_title() -> None:
    items = CONFIG.build().items.to_pylist()
    for start in range(0, CONFIG.num_items, CONFIG.parts):
        series = items[start : start + CONFIG.parts]
        assert len({tuple(item["categories"]) for item in series}) == 1
        assert [item["title"].split(", Part ")[1] for item in series] == [str(n) for n in range(1, 9)]
        assert len({item["title"].split(", Part ")[0] for item in series}) == 1


def test_the_given_split_asks_for_every_target_and_shows_nobody_another_part() -> None:
    catalog = CONFIG.build()
    train, validation, test = SplitConfig("given").build(catalog)
    assert [len(part.user_E) for part in (train, validation, test)] == [(960 - 96) * 4, 96 * 4, 240 * 4]
    assert set(test.user_E) == set(range(960, 1200)) and not set(train.user_E) & set(validation.user_E)
    for examples in (train, validation, test):
        assert set(examples.end_E - catalog.offsets_U1[examples.user_E]) == {150}


def test_the_same_config_gives_the_same_catalogue_and_another_seed_another() -> None:
    one, same, other = (LongInterestConfig(num_users=50, seed=seed).build() for seed in (3, 3, 4))
    assert np.array_equal(one.item_M, same.item_M) and one.items.equals(same.items) and one.users.equals(same.users)
    assert not np.array_equal(one.item_M, other.item_M)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_interest_shows_in_its_share_of_the_old_events_and_nowhere_among_the_recent_ones(seed: int) -> None:
    old_UT, recent_UT, target_UX = divided(LongInterestConfig(seed=seed).build())
    interest_U1 = place_of(target_UX[:, :1])
    assert (place_of(target_UX) == interest_U1).all()
    assert all(len(set(target_X)) == CONFIG.targets for target_X in target_UX.tolist())
    by_chance = 1 / PLACES
    shown = CONFIG.interest_share + (1 - CONFIG.interest_share) * by_chance
    assert (place_of(old_UT) == interest_U1).mean() == pytest.approx(shown, abs=0.005)
    # Over all recent events, and at every one of the 50 places: four standard errors.
    recent_UT = place_of(recent_UT) == interest_U1
    error = (by_chance * (1 - by_chance) / CONFIG.num_users) ** 0.5
    assert recent_UT.mean() == pytest.approx(by_chance, abs=4 * error / CONFIG.recent_events**0.5)
    assert recent_UT.mean(0) == pytest.approx(by_chance, abs=4 * error)
    # In any place of the old events alike: the interest does not fade out.
    old_T = (place_of(old_UT) == interest_U1).mean(0)
    assert old_T == pytest.approx(shown, abs=4 * (shown * (1 - shown) / CONFIG.num_users) ** 0.5)


def recall_at_10(score_UN: np.ndarray, target_UX: np.ndarray) -> float:
    """Of ten items at random among the best where scores are equal."""
    tie_UN = np.random.default_rng(0).random(score_UN.shape)
    ranked_U10 = np.lexsort((tie_UN, -score_UN.astype(int)))[:, :10]
    return float((ranked_U10[:, None] == target_UX[..., None]).any(2).mean())


def counts(number_UT: np.ndarray, size: int) -> np.ndarray:
    """(U, size) how often each number occurs in a row."""
    return np.stack([np.bincount(number_T, minlength=size) for number_T in number_UT])


def test_oracles_reach_chance_from_the_recent_events_more_from_the_category_and_one_from_the_series() -> None:
    old_UT, recent_UT, target_UX = divided(CONFIG.build())
    item_N = np.arange(CONFIG.num_items)

    def best_place(item_UT: np.ndarray) -> np.ndarray:
        return counts(place_of(item_UT), PLACES).argmax(1)

    def best_category(item_UT: np.ndarray) -> np.ndarray:
        return counts(place_of(item_UT) // CONFIG.series, CONFIG.num_categories).argmax(1)

    # Whatever is read out of the recent events: the items themselves, their series, or their category.
    category_N = place_of(item_N) // CONFIG.series
    by_item = counts(recent_UT, CONFIG.num_items)
    by_place = best_place(recent_UT)[:, None] == place_of(item_N)
    by_category = best_category(recent_UT)[:, None] == category_N
    for score_UN in (by_item, by_place, by_category):
        assert recall_at_10(score_UN, target_UX) == pytest.approx(CHANCE, abs=0.01)

    assert (best_category(old_UT) == place_of(target_UX[:, 0]) // CONFIG.series).mean() > 0.999
    known_category = best_category(old_UT)[:, None] == category_N
    assert recall_at_10(known_category, target_UX) == pytest.approx(10 / 48, abs=0.02)
    assert recall_at_10(best_place(old_UT)[:, None] == place_of(item_N), target_UX) == 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_categories": 13}, "data.num_categories=13: expected 1 to 12"),
        ({"num_categories": 0}, "data.num_categories=0: expected 1 to 12"),
        ({"series": 17}, "data.series=17: expected 1 to 16"),
        ({"targets": 9}, "data.targets=9: expected 1 to data.parts=8"),
        ({"targets": 0}, "data.targets=0: expected 1 to data.parts=8"),
        ({"parts": 0}, "data.targets=4: expected 1 to data.parts=0"),
        ({"num_users": 0}, "data.num_users=0: expected at least 1"),
        ({"old_events": 0}, "data.old_events=0: expected at least 1"),
        ({"recent_events": -1}, "data.recent_events=-1: expected at least 0"),
        ({"interest_share": 1.5}, "data.interest_share=1.5: expected a share of 0 to 1"),
        ({"test_share": 2.0}, "data.test_share=2.0: expected a share of 0 to 1"),
    ],
)
def test_impossible_sizes_are_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        LongInterestConfig(**changes).build()


def test_the_smallest_and_the_largest_catalogue() -> None:
    smallest = LongInterestConfig(1, 1, 1, 1, old_events=1, recent_events=0, targets=1).build()
    assert smallest.item_M.tolist() == [0, 0]
    largest = LongInterestConfig(num_users=2, num_categories=12, series=16).build()
    assert largest.num_items == 12 * 16 * 8 == len(set(largest.items["title"].to_pylist()))
