"""The catalogue: items, users and one log of events, the only thing the later stages know about a data set.

Array names end in their shape: U users, N items, M events. This module imports pyarrow and numpy only: a machine that
only trains loads a saved catalogue without Daft or Hugging Face `datasets`.
"""

import functools
import os
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import pyarrow as pa

from sid.errors import UserError

if TYPE_CHECKING:
    import daft

UNKNOWN = "UNKNOWN"
TOO_LATE = 2.0**63
ITEM_SCHEMA = pa.schema(
    [
        ("item", pa.string()),
        ("title", pa.string()),
        ("brand", pa.string()),
        ("price", pa.float64()),
        ("categories", pa.list_(pa.string())),
        ("category", pa.string()),
        ("text", pa.string()),
        ("candidate", pa.bool_()),
    ]
)
USER_SCHEMA = pa.schema([("user", pa.string()), ("part", pa.string()), ("targets", pa.int32())])
SEQUENCE_SCHEMA = pa.schema([("items", pa.list_(pa.int32())), ("times", pa.list_(pa.int64()))])


@dataclass(frozen=True)
class Catalog:
    """Items, users and the events between them. Ids are row numbers: item i is `items[i]`, user u is `users[u]`.

    Attributes:
        items: N rows. item (raw id), title, brand, price, categories (one path, root first, may be empty), category
            (the one that entropy and purity count; "UNKNOWN" if there is none), text (free text given by the user),
            candidate (false: occurs in histories, but is never to be recommended; true or null: may be).
            title, brand, price and text may be null.
        users: U rows. user (raw id); where the data comes divided, part (train or test) and targets (how many of the
            last events are to be predicted, each from the events before all of them), else null.
        offsets_U1: (U + 1,) int64; the events of user u are [offsets_U1[u], offsets_U1[u + 1]), at least one.
        item_M: (M,) int32, a user's oldest event first.
        time_M: (M,) int64, unix seconds; any rising integer where the data has only an order.
    """

    items: pa.Table
    users: pa.Table
    offsets_U1: np.ndarray
    item_M: np.ndarray
    time_M: np.ndarray

    @property
    def num_users(self) -> int:
        return len(self.offsets_U1) - 1

    @property
    def num_items(self) -> int:
        return int(self.items.num_rows)

    @property
    def num_events(self) -> int:
        return len(self.item_M)

    @property
    def candidates(self) -> np.ndarray | None:
        """(X,) int64 items that may be recommended, in rising order; None: all of them."""
        candidate_N = np.asarray(self.items["candidate"].fill_null(True))
        return None if candidate_N.all() else np.flatnonzero(candidate_N)

    def figures(self) -> dict[str, float]:
        """The numbers that papers print about a data set."""
        lengths_U = np.diff(self.offsets_U1)
        return {
            "users": self.num_users,
            "items": self.num_items,
            "interactions": self.num_events,
            "mean_length": float(lengths_U.mean()),
            "median_length": float(np.median(lengths_U)),
            "density": self.num_events / (self.num_users * self.num_items),
            "first_time": int(self.time_M.min()),
            "last_time": int(self.time_M.max()),
        }

    def save(self, folder: Path) -> None:
        """Write items.parquet, users.parquet, interactions.parquet and sequences/ into an empty folder.

        sequences/ is a Hugging Face data set with one row a user (items, times). It is written as one record batch,
        so that `load` can map its two value buffers into memory as they are.
        """
        import pyarrow.parquet as pq

        pq.write_table(self.items, folder / "items.parquet")
        pq.write_table(self.users, folder / "users.parquet")
        user_M = np.repeat(np.arange(self.num_users, dtype=np.int32), np.diff(self.offsets_U1))
        log = pa.table({"user": user_M, "item": self.item_M, "time": self.time_M})
        pq.write_table(log, folder / "interactions.parquet")
        offsets = pa.array(self.offsets_U1, pa.int32())
        columns = [pa.ListArray.from_arrays(offsets, pa.array(values_M)) for values_M in (self.item_M, self.time_M)]
        _save_one_batch(pa.Table.from_arrays(columns, schema=SEQUENCE_SCHEMA), folder / "sequences")

    @classmethod
    def load(cls, folder: Path) -> "Catalog":
        """Read what `save` or `CatalogConfig.write` wrote; columns that an older one lacks are null.

        item_M and time_M are read-only views of mapped files: nothing is copied. The log is sequences/, or, where there
        are only orders and no times, item.npy and offsets.npy, which hold more than 2^31 events.

        Raises:
            UserError: a file is missing, damaged or not one of these.
        """
        import pyarrow.parquet as pq

        try:
            items = pq.read_table(folder / "items.parquet", schema=ITEM_SCHEMA)
            users = pq.read_table(folder / "users.parquet", schema=USER_SCHEMA)
            offsets_U1, item_M, time_M = _load_log(folder)
        except (OSError, ValueError, KeyError, EOFError) as error:
            raise UserError(f"{folder} holds no readable catalogue ({error}). Prepare the data again.") from error
        if len(offsets_U1) != users.num_rows + 1 or offsets_U1[-1] != len(item_M):
            raise UserError(
                f"{folder} is damaged: {len(offsets_U1) - 1} sequences for {users.num_rows} users, "
                f"{len(item_M)} events of {offsets_U1[-1]}. Prepare the data again."
            )
        return cls(items, users, offsets_U1, item_M, time_M)


@dataclass
class CatalogConfig:
    """What a data set's config offers. Fields marked `hashed: False` only say where files lie."""

    revision: ClassVar[int] = 0
    """Raised when other catalogues come of the same files: what was prepared before is not taken for them."""

    @property
    def official(self) -> dict[str, float]:
        """Counts that the publishers print, by name of `Catalog.figures` where they mean the same."""
        return {}

    def raw_files(self) -> list[Path]:
        """The input files, fetched first if they are absent. Their contents decide whether a stage is reused."""
        raise NotImplementedError

    def build(self) -> Catalog:
        """Read, check and prepare the data.

        Raises:
            UserError: the input is at fault; the message says where.
        """
        raise NotImplementedError

    def write(self, folder: Path) -> dict[str, float]:
        """Prepare the data into an empty folder, from where `Catalog.load` reads it; returns the figures.

        Raises:
            UserError: as `build`.
        """
        catalog = self.build()
        catalog.save(folder)
        return catalog.figures()


def build_catalog(events: "daft.DataFrame", items: "daft.DataFrame", min_count: int) -> Catalog:
    """Sort, filter and number a raw log.

    Keeps the largest set of events in which every user and every item has at least `min_count` of them (the k-core;
    repeated events count). Users are numbered by their first row in `events`, items by first appearance when walking
    the users in that order, each oldest event first; equal times keep their row order. This is the preparation of
    S3-Rec (Zhou et al., 2020), which TIGER and its successors use.

    Args:
        events: user (string), item (string), time (integer or float, stored rounded down), row (integer, unique:
            the order in the file).
        items: item (string, unique) and any of the other columns of ITEM_SCHEMA. Items without events are dropped,
            items that are not listed here have nulls and the category "UNKNOWN".
        min_count: 1 keeps everything.

    Raises:
        UserError: no event is left, or a time does not fit.
    """
    from daft import col

    events = events.collect()
    user_keys = events.groupby("user").agg(col("row").min().alias("user_key")).collect()
    item_keys = events.groupby("item").agg(col("row").min().alias("item_key")).collect()
    keyed = events.join(user_keys, on="user").join(item_keys, on="item").select("user_key", "item_key", "time", "row")
    core = _core(keyed, min_count)
    if core.count_rows() == 0:
        raise UserError(
            f"No interaction is left of {events.count_rows()}: each user and each item needs at least {min_count} of "
            "them. Lower min_count, or check that the user and item columns are the right ones."
        )
    log = core.sort(["user_key", "time", "row"]).select("user_key", "item_key", "time").to_arrow()
    user_key_M, item_key_M = log["user_key"].to_numpy(), log["item_key"].to_numpy()
    time_M = log["time"].to_numpy()
    if not (np.abs(time_M) < TOO_LATE).all():
        raise UserError(f"a time of {time_M[np.abs(time_M).argmax()]} is none that 64 bits hold; expected seconds.")
    starts_U = np.flatnonzero(np.diff(user_key_M, prepend=user_key_M[0] - 1))
    item_key_N, first_N, item_M = np.unique(item_key_M, return_index=True, return_inverse=True)
    order_N = np.argsort(first_N)
    number_N = np.empty_like(order_N, dtype=np.int32)
    number_N[order_N] = np.arange(len(order_N), dtype=np.int32)

    users = _numbered(user_key_M[starts_U], "user_key").join(user_keys, on="user_key").sort("index").select("user")
    kept = _numbered(item_key_N[order_N], "item_key").join(item_keys, on="item_key").select("index", "item")
    described = kept.join(items, on="item", how="left").sort("index").to_arrow()
    assert described.num_rows == len(order_N), f"{described.num_rows} descriptions for {len(order_N)} items"
    return Catalog(
        items=_conform(described),
        users=user_table(users.to_arrow()["user"].cast(pa.string()).combine_chunks()),
        offsets_U1=np.append(starts_U, len(user_key_M)).astype(np.int64),
        item_M=number_N[item_M],
        time_M=(np.floor(time_M) if time_M.dtype.kind == "f" else time_M).astype(np.int64),
    )


def user_table(users: pa.Array) -> pa.Table:
    """The users of data that does not come divided into parts."""
    columns = [users, *(pa.nulls(len(users), field.type) for field in list(USER_SCHEMA)[1:])]
    return pa.table(columns, schema=USER_SCHEMA)


@functools.cache
def engine() -> ModuleType:
    """Daft: embedded in this process, or on a Ray cluster where SIDLIGHT_RAY is its address ("1": a new local one).

    Raises:
        UserError: SIDLIGHT_RAY is set and ray is not installed.
    """
    os.environ.setdefault("DO_NOT_TRACK", "true")
    os.environ.setdefault("DAFT_PROGRESS_BAR", "0")
    import daft

    address = os.environ.get("SIDLIGHT_RAY", "")
    if address:
        try:
            daft.set_runner_ray(address=None if address == "1" else address, noop_if_initialized=True)
        except ImportError as error:
            raise UserError(
                "SIDLIGHT_RAY is set but ray is not installed: pip install 'sidlight[ray]', or unset SIDLIGHT_RAY."
            ) from error
    return daft


def data_folder(data_dir: str) -> Path:
    """Where raw files lie: `data_dir`, else the environment's DATA_DIR, else ./data."""
    return path_of(data_dir or os.environ.get("DATA_DIR") or "data")


def path_of(text: str) -> Path:
    """The path, of the user's home where it begins with ~; as it is, if there is no such user."""
    return Path(os.path.expanduser(text))


def _core(events: "daft.DataFrame", min_count: int) -> "daft.DataFrame":
    from daft import col

    before, left = -1, events.count_rows()
    while left != before:
        for key in ("item_key", "user_key"):
            counts = events.groupby(key).agg(col("row").count().alias("count"))
            events = events.join(counts.where(col("count") >= min_count), on=key, how="semi")
        events = events.collect()
        before, left = left, events.count_rows()
    return events


def _numbered(key_X: np.ndarray, name: str) -> "daft.DataFrame":
    return engine().from_arrow(pa.table({name: key_X, "index": np.arange(len(key_X))}))


def _conform(described: pa.Table) -> pa.Table:
    """Give a table of descriptions the columns, types and fillers of ITEM_SCHEMA."""
    import pyarrow.compute as pc

    columns = {}
    for field in ITEM_SCHEMA:
        if field.name in described.column_names:
            columns[field.name] = described[field.name].cast(field.type)
        else:
            columns[field.name] = pa.chunked_array([pa.nulls(described.num_rows, field.type)])
    columns["category"] = pc.fill_null(columns["category"], UNKNOWN)
    empty = pa.scalar([], ITEM_SCHEMA.field("categories").type)
    columns["categories"] = pc.if_else(pc.is_valid(columns["categories"]), columns["categories"], empty)
    return pa.table(columns, schema=ITEM_SCHEMA).combine_chunks()


def _load_log(folder: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """offsets (U + 1,), item (M,) and time (M,) of a prepared folder."""
    if (folder / "item.npy").exists():
        item_M = np.asarray(np.load(folder / "item.npy", mmap_mode="r", allow_pickle=False))
        offsets_U1 = np.load(folder / "offsets.npy", allow_pickle=False)
        return offsets_U1, item_M, np.broadcast_to(np.int64(0), item_M.shape)
    (shard,) = (folder / "sequences").glob("*.arrow")
    (batch,) = pa.ipc.open_stream(pa.memory_map(str(shard)))
    sequences, times = batch.column("items"), batch.column("times")
    return sequences.offsets.to_numpy().astype(np.int64), sequences.values.to_numpy(), times.values.to_numpy()


def _save_one_batch(table: pa.Table, folder: Path) -> None:
    import datasets

    datasets.disable_progress_bars()
    usual = datasets.config.DEFAULT_MAX_BATCH_SIZE
    datasets.config.DEFAULT_MAX_BATCH_SIZE = table.num_rows
    try:
        datasets.Dataset(table).save_to_disk(folder, num_shards=1)
    finally:
        datasets.config.DEFAULT_MAX_BATCH_SIZE = usual
