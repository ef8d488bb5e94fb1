"""Made-up users whose next item depends on an interest that shows only long ago: the question that GLASS answers.

Array names end in their shape: U users, T events of a history, X targets of a user.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from datamodules.catalog import ITEM_SCHEMA, USER_SCHEMA, Catalog, CatalogConfig
from datamodules.synthetic import SERIES, THEMES
from sid.errors import require

NAMES = SERIES.split()


@dataclass
class LongInterestConfig(CatalogConfig):
    """Items lie in categories, in each of which are series; every user has one series of interest.

    A history is old and recent events. Of the old ones `interest_share` are items of the series of interest, in random
    places; all others, and all recent ones, are drawn from the whole catalogue. The targets are items of the series of
    interest. So a model that sees the recent events alone is at chance; one that finds the category in the old events
    knows the first code; one that looks up the old events of that category knows the series as well, and is left with
    `parts` items. Users are divided (`SplitConfig(kind="given")`): the events to predict are in nobody's history,
    but the same items mostly are in the old events of their user.
    """

    num_users: int = 1200
    num_categories: int = 12
    series: int = 6
    parts: int = 8
    old_events: int = 100
    recent_events: int = 50
    targets: int = 4
    interest_share: float = 0.4
    test_share: float = 0.2
    seed: int = 0

    @property
    def num_items(self) -> int:
        return self.num_categories * self.series * self.parts

    def raw_files(self) -> list[Path]:
        """There are none."""
        return []

    def build(self) -> Catalog:
        """Draw the catalogue; the same config gives the same catalogue.

        Raises:
            UserError: more categories or series than there are names for, more targets than a series has items, a
                number too small or a share outside [0, 1].
        """
        require(1 <= self.num_categories <= len(THEMES), "data.num_categories", self.num_categories, "1 to 12")
        require(1 <= self.series <= len(NAMES), "data.series", self.series, f"1 to {len(NAMES)}")
        require(1 <= self.targets <= self.parts, "data.targets", self.targets, f"1 to data.parts={self.parts}")
        require(self.num_users >= 1, "data.num_users", self.num_users, "at least 1")
        require(self.old_events >= 1, "data.old_events", self.old_events, "at least 1")
        require(self.recent_events >= 0, "data.recent_events", self.recent_events, "at least 0")
        for name in ("interest_share", "test_share"):
            require(0 <= getattr(self, name) <= 1, f"data.{name}", getattr(self, name), "a share of 0 to 1")
        require(self.seed >= 0, "data.seed", self.seed, "at least 0")
        rng = np.random.default_rng(self.seed)
        interest_U = rng.integers(0, self.num_categories * self.series, self.num_users)
        item_UT = rng.integers(0, self.num_items, (self.num_users, self.old_events + self.recent_events))
        wanted_UT = interest_U[:, None] * self.parts + rng.integers(0, self.parts, (self.num_users, self.old_events))
        shows_UT = rng.random(wanted_UT.shape) < self.interest_share
        item_UT[:, : self.old_events] = np.where(shows_UT, wanted_UT, item_UT[:, : self.old_events])
        part_UX = rng.random((self.num_users, self.parts)).argsort(1)[:, : self.targets]
        item_UT = np.concatenate([item_UT, interest_U[:, None] * self.parts + part_UX], axis=1).astype(np.int32)
        num_tests = round(self.num_users * self.test_share)
        users = pa.table(
            {
                "user": [f"user{u:06d}" for u in range(self.num_users)],
                "part": ["train"] * (self.num_users - num_tests) + ["test"] * num_tests,
                "targets": np.full(self.num_users, self.targets, np.int32),
            },
            schema=USER_SCHEMA,
        )
        length = item_UT.shape[1]
        times_M = np.tile(np.arange(length, dtype=np.int64), self.num_users)
        return Catalog(self._items(), users, np.arange(self.num_users + 1) * length, item_UT.ravel(), times_M)

    def _items(self) -> pa.Table:
        rows = []
        for item in range(self.num_items):
            place, part = divmod(item, self.parts)
            category, series = divmod(place, self.series)
            theme = list(THEMES)[category]
            words = THEMES[theme].split()
            name = f"{NAMES[(series + 5 * category) % len(NAMES)]} {words[series % len(words)]}"
            rows.append(
                {
                    "item": f"item{item:06d}",
                    "title": f"{theme} {theme} {name} {name}, Part {part + 1}",
                    "categories": ["Catalogue", theme, name],
                    "category": theme,
                }
            )
        return pa.Table.from_pylist(rows, schema=ITEM_SCHEMA)
