"""A made-up TAOBAO-MM of any size in the official format, streamed to disk, with an interest that shows only long ago.

    python -m datamodules.taobao_synthetic OUT [--users 2000] [--history 200] [--items 400] [--samples-per-user 4]
        [--seed 0] [--shards 1]

OUT is the folder `taobao_mm` that `TaobaoMMConfig` looks for below its data_dir.

Legend: U rows of users, H history items, N items, C clusters, S samples of a user, D width.
"""

import argparse
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from datamodules.taobao_tables import CATEGORY, HISTORY, HISTORY_CATEGORIES, ITEM, LABEL, SCHEMAS, USER, VECTOR, WIDTH
from sid.errors import UserError, require

RECENT, SESSION_CLUSTERS, CLUSTERS = 50, 3, 20
USERS_A_TARGET = 25
INTEREST_SHARE, CLICK_SHARE, SHORT_SHARE, TEST_SHARE = 0.3, 0.1, 0.1, 0.2
CHUNK_EVENTS, CHUNK_ITEMS = 1 << 22, 1 << 16
KINDS = ("user", "item", "category", "city", "province", "profile")


class Places(NamedTuple):
    """Items a cluster: all of them, and those that are shown as advertisements."""

    all: int
    advertised: int

    @classmethod
    def of(cls, items: int, users: int) -> "Places":
        places = items // CLUSTERS
        return cls(places, max(1, min(places, users // (USERS_A_TARGET * CLUSTERS))))


class Drawn(NamedTuple):
    """What happened to a stretch of users; items by number, -1 before a history begins."""

    item_UH: np.ndarray
    shown_US: np.ndarray
    clicked_US: np.ndarray


def write_taobao(
    folder: Path, users: int, history: int, items: int, samples_per_user: int, seed: int = 0, shards: int = 1
) -> None:
    """Write the six tables; one file each, or `shards` files in a folder each.

    - Item i belongs to cluster (and category) i % 20; its vector is the cluster's centre with noise; the first items of
      a cluster are the most popular. Every item has a vector.
    - A user has one cluster of interest. Of the history items before the last 50, three in ten are from it and the
      others from anywhere; the last 50 come from three other clusters, so they tell nothing about the interest.
    - Clicked items, at least one a user, are of the interest; items that were shown and not clicked are of the others.
      All of them are among the most popular, one for 25 users.
    - One fifth of the rows is the test part. Its persons are in the training part too, with another history and the
      same interest.

    Raises:
        UserError: too few items, users or history items for that, or a folder that holds tables already.
    """
    require(shards >= 1, "shards", shards, "at least 1")
    require(seed >= 0, "seed", seed, "at least 0")
    require(users >= 5 * shards, "users", users, f"at least 5 a shard ({shards})")
    require(history > RECENT, "history", history, f"more than {RECENT}")
    require(items >= CLUSTERS, "items", items, f"at least {CLUSTERS}")
    require(samples_per_user >= 1, "samples_per_user", samples_per_user, "at least 1")
    if there := [path for name in SCHEMAS for path in folder.glob(f"{name}*")]:
        raise UserError(f"{there[0]} is there already; choose another folder, or delete the tables of this one")
    tests, places = round(users * TEST_SHARE), Places.of(items, users)
    for part, rows in (("train", users - tests), ("test", tests)):
        names = f"{part}_user_features", f"{part}_samples"
        bounds = np.linspace(0, rows, shards + 1).round().astype(int)
        for shard in range(shards):
            chunks = _chunks(bounds[shard], bounds[shard + 1], max(CHUNK_EVENTS // history, 1))
            writers = (_writer(folder, name, shard, shards) for name in names)
            with next(writers) as features, next(writers) as shown:
                for user_U in _tracked(chunks, f"{part} {shard + 1}/{shards}"):
                    rng = np.random.default_rng([seed, part == "test", user_U[0]])
                    drawn = _draw(user_U, history, places, samples_per_user, rng)
                    features.write_table(_user_features(user_U, drawn.item_UH))
                    shown.write_table(_samples(user_U, drawn))
    centre_CD = np.random.default_rng([seed, 2]).normal(size=(CLUSTERS, WIDTH))
    makers: dict[str, Callable[[np.ndarray], pa.Table]] = {
        "item_features": _item_features,
        "scl_embedding_int8_p90": lambda item_X: _vectors(item_X, centre_CD, seed),
    }
    for name, make in makers.items():
        bounds = np.linspace(0, items, shards + 1).round().astype(int)
        for shard in range(shards):
            with _writer(folder, name, shard, shards) as writer:
                for item_X in _tracked(_chunks(bounds[shard], bounds[shard + 1], CHUNK_ITEMS), name):
                    writer.write_table(make(item_X))


def raw_ids(kind: str, number: np.ndarray) -> np.ndarray:
    """Distinct 64-bit hashes of the things of a kind, of the shape of `number` (splitmix64, which is one to one)."""
    x = number.astype(np.uint64) + np.uint64((KINDS.index(kind) + 1) << 40)
    x = x * np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return (x ^ (x >> np.uint64(31))).view(np.int64)


def interests(user_U: np.ndarray) -> np.ndarray:
    """(U,) the cluster of interest of each person."""
    return raw_ids("user", user_U) % CLUSTERS


def _draw(user_U: np.ndarray, history: int, places: Places, samples: int, rng: np.random.Generator) -> Drawn:
    interest_U1 = interests(user_U)[:, None]
    shape_UH = len(user_U), history
    cluster_UH = rng.integers(0, CLUSTERS, shape_UH, dtype=np.int8)
    np.copyto(cluster_UH, interest_U1, where=rng.random(shape_UH, dtype=np.float32) < INTEREST_SHARE, casting="unsafe")
    others_UC = (interest_U1 + 1 + rng.random((len(user_U), CLUSTERS - 1)).argsort(axis=1)) % CLUSTERS
    session_UH = rng.integers(0, SESSION_CLUSTERS, (len(user_U), RECENT))
    cluster_UH[:, -RECENT:] = np.take_along_axis(others_UC, session_UH, axis=1)
    item_UH = _items_of(cluster_UH, places.all, rng)
    missing_U = (rng.random(len(user_U)) < SHORT_SHARE) * rng.integers(0, history - RECENT, len(user_U))
    item_UH[np.arange(history) < missing_U[:, None]] = -1

    clicked_US = rng.random((len(user_U), samples)) < CLICK_SHARE
    clicked_US[np.arange(len(user_U)), rng.integers(0, samples, len(user_U))] = True
    other_US = np.take_along_axis(others_UC, rng.integers(0, CLUSTERS - 1, clicked_US.shape), axis=1)
    shown_US = _items_of(np.where(clicked_US, interest_U1, other_US), places.advertised, rng)
    return Drawn(item_UH, shown_US, clicked_US)


def _items_of(cluster: np.ndarray, places: int, rng: np.random.Generator) -> np.ndarray:
    """One of the first items of every cluster named, the very first ones most often."""
    place = rng.random(cluster.shape, dtype=np.float32) ** 2 * places
    return place.astype(np.int64) * CLUSTERS + cluster


def _user_features(user_U: np.ndarray, item_UH: np.ndarray) -> pa.Table:
    seen_UH = item_UH >= 0
    item_M = item_UH[seen_UH]
    offsets = pa.array(np.append(0, np.cumsum(seen_UH.sum(axis=1))), pa.int32())
    profile = {f"130_{place}": raw_ids("profile", user_U % (place + 2)) for place in range(1, 6)}
    lists = {
        HISTORY: pa.ListArray.from_arrays(offsets, raw_ids("item", item_M)),
        HISTORY_CATEGORIES: pa.ListArray.from_arrays(offsets, raw_ids("category", item_M % CLUSTERS)),
    }
    return pa.table({USER: raw_ids("user", user_U)} | profile | lists).cast(SCHEMAS["train_user_features"])


def _samples(user_U: np.ndarray, drawn: Drawn) -> pa.Table:
    clicked = drawn.clicked_US.ravel()
    label = np.stack([~clicked, clicked], axis=1).astype(np.int8)
    columns = {
        LABEL: _lists_of(label),
        USER: np.repeat(raw_ids("user", user_U), drawn.shown_US.shape[1]),
        ITEM: raw_ids("item", drawn.shown_US.ravel()),
    }
    return pa.table(columns).cast(SCHEMAS["train_samples"])


def _item_features(item_X: np.ndarray) -> pa.Table:
    category_X, city_X = raw_ids("category", item_X % CLUSTERS), item_X % 300
    columns = {CATEGORY: category_X, "213": raw_ids("city", city_X), "214": raw_ids("province", city_X % 30)}
    return pa.table({ITEM: raw_ids("item", item_X)} | columns, schema=SCHEMAS["item_features"])


def _vectors(item_X: np.ndarray, centre_CD: np.ndarray, seed: int) -> pa.Table:
    noise_XD = np.random.default_rng([seed, 3, item_X[0]]).normal(size=(len(item_X), WIDTH))
    vector_XD = centre_CD[item_X % CLUSTERS] + 0.5 * noise_XD
    vector_XD *= 127 / np.linalg.norm(vector_XD, axis=1, keepdims=True)
    columns = {ITEM: raw_ids("item", item_X), VECTOR: _lists_of(vector_XD.round().astype(np.int8))}
    return pa.table(columns).cast(SCHEMAS["scl_embedding_int8_p90"])


def _lists_of(rows: np.ndarray) -> pa.ListArray:
    return pa.ListArray.from_arrays(pa.array(np.arange(len(rows) + 1) * rows.shape[1], pa.int32()), rows.ravel())


def _chunks(start: int, stop: int, rows: int) -> list[np.ndarray]:
    return [np.arange(first, min(first + rows, stop)) for first in range(start, stop, rows)]


def _tracked(chunks: list[np.ndarray], label: str) -> Iterator[np.ndarray]:
    from rich.console import Console
    from rich.progress import track

    console = Console(stderr=True)
    yield from track(chunks, label, console=console, disable=not console.is_terminal)


def _writer(folder: Path, table: str, shard: int, shards: int) -> pq.ParquetWriter:
    path = folder / f"{table}.parquet" if shards == 1 else folder / table / f"part-{shard:05d}.parquet"
    path.parent.mkdir(parents=True, exist_ok=True)
    return pq.ParquetWriter(path, SCHEMAS[table])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", metavar="OUT", type=Path)
    for name, usual in (("users", 2000), ("history", 200), ("items", 400), ("samples-per-user", 4)):
        parser.add_argument(f"--{name}", type=int, default=usual)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--shards", type=int, default=1)
    try:
        write_taobao(**vars(parser.parse_args()))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
