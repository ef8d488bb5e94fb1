"""A small made-up catalogue with planted structure, for tests and smoke runs.

Array names end in their shape: U users, N items, C categories, P places in a category, M events, S steps.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from datamodules.catalog import ITEM_SCHEMA, Catalog, CatalogConfig, user_table
from sid.errors import UserError, require

FEWEST_EVENTS = 5
DAY_SECONDS = 86_400
SEASON_DAYS = 60
FIRST_SECOND = 1_300_000_000
THEMES = {
    "Astronomy": "telescope star planet orbit comet lens nebula moon galaxy tripod",
    "Baking": "flour oven dough cake yeast whisk sugar pastry vanilla tin",
    "Cycling": "bicycle saddle pedal chain helmet wheel brake gear tyre handlebar",
    "Fishing": "rod reel bait hook trout river lure net angler boat",
    "Gardening": "seed soil rose shovel hose compost pot hedge tulip rake",
    "Music": "guitar drum piano violin chord amplifier microphone melody string tuner",
    "Painting": "brush canvas easel pigment palette watercolor sketch varnish charcoal frame",
    "Sewing": "needle thread fabric button zipper stitch cotton bobbin scissors pattern",
    "Chess": "pawn rook bishop knight opening endgame clock board gambit checkmate",
    "Swimming": "goggles pool stroke swimsuit flipper dive lane towel snorkel lap",
    "Carpentry": "saw hammer plank nail drill chisel oak glue clamp sandpaper",
    "Photography": "camera shutter film flash aperture portrait exposure negative zoom album",
}
SERIES = "Amber Birch Cobalt Dune Ember Fern Granite Harbor Indigo Juniper Kestrel Lagoon Maple Nimbus Onyx Pearl"


@dataclass
class SyntheticConfig(CatalogConfig):
    """Users with tastes, items in series.

    - Items belong to categories, whose words fill their titles and texts, and within a category to series of
      `series_length` parts. Each item has a popularity of its own.
    - After an item comes its sequel, the next part, with probability `sequel_probability`. Otherwise comes an item of
      the user's favourite category (of a random one with probability `wander_probability`), by popularity.
    - Seasonal users have two favourites and change between them every 60 days.
    - No user sees an item twice; each has at least 5 events.

    With the defaults (seeds 0 to 4), leave-one-out, Recall@10 on the test events: popularity 0.065 to 0.11; an oracle
    that knows sequels and the popularity within categories 0.74 to 0.76, between 7 and 11 times as much; counted
    transitions from one item to the next 0.51 to 0.58. A working model must reach 3 times popularity.
    """

    num_users: int = 400
    num_items: int = 200
    num_categories: int = 8
    mean_length: float = 12.0
    """Events of a user, before histories are cut to as many as a category has items."""
    series_length: int = 5
    sequel_probability: float = 0.6
    wander_probability: float = 0.1
    seasonal_share: float = 0.3
    seed: int = 0

    def raw_files(self) -> list[Path]:
        """There are none."""
        return []

    def build(self) -> Catalog:
        """Draw the catalogue; the same config gives the same catalogue.

        Raises:
            UserError: too many categories, or too few items for them.
        """
        if not 1 <= self.num_categories <= len(THEMES):
            raise UserError(f"num_categories is {self.num_categories}; expected 1 to {len(THEMES)}.")
        if self.num_items < 2 * FEWEST_EVENTS * self.num_categories:
            raise UserError(
                f"num_items is {self.num_items}; {self.num_categories} categories need at least "
                f"{2 * FEWEST_EVENTS * self.num_categories}. Raise num_items or lower num_categories."
            )
        require(self.num_users >= 1, "data.num_users", self.num_users, "at least 1")
        moderate = FEWEST_EVENTS <= self.mean_length <= self.num_items
        require(moderate, "data.mean_length", self.mean_length, f"{FEWEST_EVENTS} to data.num_items={self.num_items}")
        require(self.series_length >= 1, "data.series_length", self.series_length, "at least 1")
        for name in ("sequel_probability", "wander_probability", "seasonal_share"):
            require(0 <= getattr(self, name) <= 1, f"data.{name}", getattr(self, name), "a share of 0 to 1")
        require(self.seed >= 0, "data.seed", self.seed, "at least 0")
        rng = np.random.default_rng(self.seed)
        items = self._describe(rng)
        offsets_U1, item_M, time_M = self._walk(rng)
        users = user_table(pa.array([f"user{u:06d}" for u in range(self.num_users)]))
        return Catalog(items, users, offsets_U1, item_M, time_M)

    def sequels(self) -> np.ndarray:
        """(N,) int64: the item that follows, or -1 after the last part of a series."""
        item_N = np.arange(self.num_items)
        next_N = item_N + self.num_categories
        last_N = (item_N // self.num_categories + 1) % self.series_length == 0
        return np.where(last_N | (next_N >= self.num_items), -1, next_N)

    def _describe(self, rng: np.random.Generator) -> pa.Table:
        rows, names = [], SERIES.split()
        for item in range(self.num_items):
            place, category = divmod(item, self.num_categories)
            series, part = divmod(place, self.series_length)
            theme = list(THEMES)[category]
            words = THEMES[theme].split()
            name = f"{names[series % len(names)]} {words[series % len(words)].title()}"
            rows.append(
                {
                    "item": f"item{item:06d}",
                    "title": f"{name} {theme}, Part {part + 1}",
                    "brand": f"{names[(category + series // 2) % len(names)]} {theme}",
                    "price": round(float(rng.lognormal(2 + category / 4, 0.3)), 2),
                    "categories": ["Catalogue", theme, name],
                    "category": theme,
                    "text": f"{name}: " + " ".join(rng.choice(words, size=6, replace=False)),
                }
            )
        return pa.Table.from_pylist(rows, schema=ITEM_SCHEMA)

    def _walk(self, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """offsets (U + 1,), item (M,) and time (M,) of all users, who walk side by side, one step at a time."""
        num_places = -(-self.num_items // self.num_categories)
        place_PC = np.arange(num_places * self.num_categories).reshape(num_places, self.num_categories)
        log_popularity_CP = np.where(place_PC < self.num_items, rng.normal(0, 0.7, place_PC.shape), -np.inf).T
        log_categories_C = rng.normal(0, 0.4, self.num_categories)
        weight_C = np.exp(log_categories_C) / np.exp(log_categories_C).sum()
        favourite_U2 = rng.choice(self.num_categories, size=(self.num_users, 2), p=weight_C)
        seasonal_U = rng.random(self.num_users) < self.seasonal_share
        favourite_U2[~seasonal_U, 1] = favourite_U2[~seasonal_U, 0]

        extra_U = rng.geometric(1 / (self.mean_length - FEWEST_EVENTS + 1), self.num_users) - 1
        length_U = np.minimum(FEWEST_EVENTS + extra_U, self.num_items // self.num_categories)
        num_steps = int(length_U.max())
        gap_US = rng.exponential(10 * DAY_SECONDS, (self.num_users, num_steps))
        time_US = (FIRST_SECOND + rng.integers(0, 365 * DAY_SECONDS, (self.num_users, 1)) + gap_US.cumsum(1)).astype(
            int
        )
        season_US = time_US // (SEASON_DAYS * DAY_SECONDS) % 2

        user_U = np.arange(self.num_users)
        seen_UN = np.zeros((self.num_users, self.num_items + 1), dtype=bool)
        seen_UN[:, -1] = True
        sequel_N1 = np.append(self.sequels(), -1)
        item_US = np.full((self.num_users, num_steps), -1)
        previous_U = np.full(self.num_users, -1)
        for step in range(num_steps):
            sequel_U = sequel_N1[previous_U]
            follows_U = (rng.random(self.num_users) < self.sequel_probability) & ~seen_UN[user_U, sequel_U]
            wanders_U = rng.random(self.num_users) < self.wander_probability
            anywhere_U = rng.integers(0, self.num_categories, self.num_users)
            category_U = np.where(wanders_U, anywhere_U, favourite_U2[user_U, season_US[:, step]])
            candidate_UP = place_PC.T[category_U]
            gone_UP = seen_UN[user_U[:, None], np.minimum(candidate_UP, self.num_items)]
            score_UP = log_popularity_CP[category_U] + rng.gumbel(size=candidate_UP.shape)
            free_U = candidate_UP[user_U, np.where(gone_UP, -np.inf, score_UP).argmax(1)]
            previous_U = np.where(follows_U, sequel_U, free_U)
            item_US[:, step] = previous_U
            seen_UN[user_U, previous_U] = True
        kept_US = np.arange(num_steps) < length_U[:, None]
        offsets_U1 = np.append(0, length_U.cumsum()).astype(np.int64)
        return offsets_U1, item_US[kept_US].astype(np.int32), time_US[kept_US].astype(np.int64)
