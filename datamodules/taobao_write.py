"""What the preparation of TAOBAO-MM writes: a log that grows, its users, its items and their vectors, all in stretches.

Array names end in their shape: V raw items, N items of the catalogue, X some items, U users, M events, R rows of a
batch, H history items of a batch, D width.
"""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from datamodules.arrays import mapped
from datamodules.catalog import ITEM_SCHEMA, UNKNOWN, USER_SCHEMA
from datamodules.taobao_tables import CATEGORY, ITEM, VECTOR, VECTORS, WIDTH, batches, ids, matrix

FEATURE_ROWS, ITEM_ROWS, VECTOR_ROWS = 1 << 18, 1 << 18, 1 << 16


def places(sorted_X: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Where the wanted values lie in `sorted_X`, -1 where they do not."""
    if len(sorted_X) == 0:
        return np.full(len(wanted), -1)
    place = np.minimum(np.searchsorted(sorted_X, wanted), len(sorted_X) - 1)
    return np.where(sorted_X[place] == wanted, place, -1)


class ItemNumbers:
    """Numbers of the catalogue for raw ids: first those of `first_X`, then as they are met.

    Args:
        known_V: the raw ids that get a number, in rising order.
        first_X: some of them.
    """

    def __init__(self, known_V: np.ndarray, first_X: np.ndarray) -> None:
        self.known_V, self.count = known_V, 0
        self.number_V = np.full(len(known_V), -1, np.int32)
        self._places: list[np.ndarray] = []
        self._categories: list[np.ndarray] = []
        self._add(places(known_V, first_X), np.zeros(len(first_X), np.int64))

    def _add(self, place_X: np.ndarray, category_X: np.ndarray) -> None:
        self.number_V[place_X] = np.arange(self.count, self.count + len(place_X))
        self.count += len(place_X)
        self._places.append(place_X)
        self._categories.append(category_X)

    def met(self, raw_H: np.ndarray, category_H: np.ndarray) -> np.ndarray:
        """(H,) int32 numbers, -1 for ids that get none. A new item keeps the category beside its first appearance."""
        raw_X, x_H = np.unique(raw_H, return_inverse=True)
        place_X = places(self.known_V, raw_X)
        new_X = (place_X >= 0) & (self.number_V[place_X] < 0)
        new_H = np.flatnonzero(new_X[x_H])
        first_H = new_H[np.sort(np.unique(x_H[new_H], return_index=True)[1])]
        self._add(place_X[x_H[first_H]], category_H[first_H])
        return np.where(place_X >= 0, self.number_V[place_X], np.int32(-1))[x_H]

    def of(self, raw_X: np.ndarray) -> np.ndarray:
        """(X,) int32 numbers, -1 for ids that have none."""
        place_X = places(self.known_V, raw_X)
        return np.where(place_X >= 0, self.number_V[place_X], np.int32(-1))

    def raw(self) -> np.ndarray:
        """(N,) int64 raw ids."""
        return self.known_V[np.concatenate(self._places)]

    def categories(self) -> np.ndarray:
        """(N,) int64, 0 where there is none."""
        return np.concatenate(self._categories)


class NpyWriter:
    """A .npy file of one dimension that grows: its header is put right at the end (numpy leaves room for that)."""

    def __init__(self, path: Path, dtype: type) -> None:
        self.dtype, self.length = np.dtype(dtype), 0
        self._file = path.open("wb")
        self._write_header()

    def _write_header(self) -> None:
        header = {"descr": self.dtype.str, "fortran_order": False, "shape": (self.length,)}
        np.lib.format.write_array_header_1_0(self._file, header)

    def __enter__(self) -> "NpyWriter":
        return self

    def __exit__(self, *error: object) -> None:
        start = self._file.tell() - self.length * self.dtype.itemsize
        self._file.seek(0)
        self._write_header()
        assert self._file.tell() == start, "the header of a .npy file grew"
        self._file.close()

    def append(self, values: np.ndarray) -> None:
        self._file.write(np.ascontiguousarray(values, self.dtype).data)
        self.length += len(values)


class UserList:
    """The users in the order of the log."""

    def __init__(self) -> None:
        self._parts: list[str] = []
        self._columns: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []

    def append(self, part: str, raw_R: np.ndarray, events_R: np.ndarray, targets_R: np.ndarray) -> None:
        self._parts.append(part)
        self._columns.append((raw_R, events_R, targets_R))

    def num_targets(self, part: str) -> int:
        return sum(int(c[2].sum()) for name, c in zip(self._parts, self._columns, strict=True) if name == part)

    def write(self, folder: Path) -> None:
        """users.parquet and offsets.npy."""
        raw_U, events_U, targets_U = (np.concatenate(column) for column in zip(*self._columns, strict=True))
        np.save(folder / "offsets.npy", np.append(0, np.cumsum(events_U)).astype(np.int64))
        lengths = [len(raw_R) for raw_R, _, _ in self._columns]
        part = pa.array(np.repeat(np.array(self._parts), lengths))
        name = pc.binary_join_element_wise(part, pa.array(raw_U).cast(pa.string()), ":")
        columns = [name, part, pa.array(targets_U, pa.int32())]
        pq.write_table(pa.table(columns, schema=USER_SCHEMA), folder / "users.parquet")


def write_items(features: list[Path], numbers: ItemNumbers, candidates: int | None, path: Path) -> None:
    """items.parquet; the first `candidates` items may be recommended (None: all).

    The category of an item is that of its row in item_features, which has the advertised items only; else, for an item
    that is no target, the one beside its first appearance in a history. City and province (213, 214) are left out.
    """
    raw_N, category_N = numbers.raw(), numbers.categories()
    for batch in batches(features, "item_features", [ITEM, CATEGORY], FEATURE_ROWS):
        number_R, category_R = numbers.of(ids(batch, ITEM)), ids(batch, CATEGORY)
        named_R = (number_R >= 0) & (category_R != 0)
        category_N[number_R[named_R]] = category_R[named_R]
    with pq.ParquetWriter(path, ITEM_SCHEMA) as writer:
        for start in range(0, len(raw_N), ITEM_ROWS):
            stretch = slice(start, start + ITEM_ROWS)
            table = _item_table(raw_N[stretch], category_N[stretch])
            if candidates is not None:
                candidate_X = np.arange(start, start + table.num_rows) < candidates
                table = table.set_column(table.num_columns - 1, "candidate", pa.array(candidate_X))
            writer.write_table(table)


def _item_table(raw_X: np.ndarray, category_X: np.ndarray) -> pa.Table:
    known_X = category_X != 0
    words = pa.array(category_X).cast(pa.string())
    offsets_X1 = pa.array(np.append(0, np.cumsum(known_X)), pa.int32())
    columns = {field.name: pa.nulls(len(raw_X), field.type) for field in ITEM_SCHEMA}
    columns |= {
        "item": pa.array(raw_X).cast(pa.string()),
        "category": pc.if_else(pa.array(known_X), words, UNKNOWN),
        "categories": pa.ListArray.from_arrays(offsets_X1, words.filter(pa.array(known_X))),
    }
    return pa.table(columns, schema=ITEM_SCHEMA)


def write_vectors(files: list[Path], numbers: ItemNumbers, path: Path) -> None:
    """vectors.npy (N, D) int8 in the order of the items; of an item that is listed twice the last row counts.

    Items lie in any order in the table, so rows are written to all over the file. It is mapped anew for each batch:
    what has been written does not count as this process's memory.

    Raises:
        UserError: a vector is not 128 wide.
    """
    shape = numbers.count, WIDTH
    mapped(path, np.int8, shape)
    for batch in batches(files, VECTORS, [ITEM, VECTOR], VECTOR_ROWS):
        vector_RD, number_R = matrix(batch, VECTOR, WIDTH, VECTORS), numbers.of(ids(batch, ITEM))
        written_ND = np.load(path, mmap_mode="r+")
        written_ND[number_R[number_R >= 0]] = vector_RD[number_R >= 0]
