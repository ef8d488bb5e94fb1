"""The six tables of TAOBAO-MM (Wu et al., 2025, arXiv 2512.07216): where their Parquet files lie, and reading them in
batches.

The features have numbers for names: 129_1 user, 130_1 to 130_5 the user's profile, 205 item, 206 its category, 213 its
city, 214 its province, 205_c its vector, 150_2_180 the user's history, 151_2_180 the categories in it, label_0 the
answer ([0, 1]: clicked). Ids are 64-bit hashes; 0 is a missing one. Array names end in R, the rows of a batch.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from datamodules.download import fetch
from sid.errors import UserError

WIDTH = 128
PARTS = ("train", "test")
USER, ITEM, CATEGORY, VECTOR, LABEL = "129_1", "205", "206", "205_c", "label_0"
HISTORY, HISTORY_CATEGORIES = "150_2_180", "151_2_180"

_IDS, _BYTES = pa.list_(pa.field("element", pa.int64())), pa.list_(pa.field("element", pa.int8()))
_SAMPLES = pa.schema([(LABEL, _BYTES), (USER, pa.int64()), (ITEM, pa.int64())])
_PROFILE = [(name, pa.int64()) for name in (USER, *(f"130_{place}" for place in range(1, 6)))]
_USER_FEATURES = pa.schema([*_PROFILE, (HISTORY, _IDS), (HISTORY_CATEGORIES, _IDS)])
SCHEMAS: dict[str, pa.Schema] = {
    "train_samples": _SAMPLES,
    "test_samples": _SAMPLES,
    "train_user_features": _USER_FEATURES,
    "test_user_features": _USER_FEATURES,
    "item_features": pa.schema([(name, pa.int64()) for name in (ITEM, CATEGORY, "213", "214")]),
    "scl_embedding_int8_p90": pa.schema([(ITEM, pa.int64()), (VECTOR, _BYTES)]),
}
VECTORS = "scl_embedding_int8_p90"

REPOSITORY = "TaoBao-MM/Taobao-MM"
ADDRESS = f"https://huggingface.co/datasets/{REPOSITORY}/resolve/main/raw/"
BUFFER_BYTES = 1 << 22


def table_files(folder: Path, name: str) -> list[Path]:
    """The files of a table in `folder` or `folder`/raw (what a clone of the hub has), in the order of their names.

    `name`.parquet, else `name`/*.parquet, else `name`*.parquet; where there is none, `name`.parquet is downloaded.

    Raises:
        UserError: there is none, and it cannot be downloaded.
    """
    for place in (folder, folder / "raw"):
        for layout in (f"{name}.parquet", f"{name}/*.parquet", f"{name}*.parquet"):
            if found := sorted(place.glob(layout)):
                return found
    file = folder / f"{name}.parquet"
    try:
        return [fetch(ADDRESS + file.name, file, file.name)]
    except UserError as error:
        raise UserError(
            f"TAOBAO-MM needs the table {name} in {folder.absolute()} ({name}.parquet, or its shards as "
            f"{name}/*.parquet or {name}*.parquet), and the download failed: {error} You can fetch it by hand: "
            f"huggingface-cli download --repo-type dataset {REPOSITORY} --include 'raw/*' --local-dir {folder}; or set "
            "DATA_DIR to the folder that holds taobao_mm."
        ) from error


def batches(files: list[Path], table: str, columns: list[str], rows: int) -> Iterator[pa.RecordBatch]:
    """The wanted columns of a table, at most `rows` rows at a time, in order; nothing is null, and lists hold no null.

    A row group may be larger than the memory (the official histories: one million users each): it is read through a
    buffer of a few MB a column.

    Raises:
        UserError: a file is no Parquet, cut off, lacks a column, has one of another type, or has a null in it.
    """
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    opened = [_open(path, table, columns) for path in files]
    console = Console(stderr=True)
    parts = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*parts, console=console, disable=not console.is_terminal, transient=True) as progress:
        task = progress.add_task(f"{table} ({', '.join(columns)})", total=sum(f.metadata.num_rows for f in opened))
        for path, file in zip(files, opened, strict=True):
            reader = file.iter_batches(rows, columns=columns, use_threads=False)
            while (batch := _next(reader, path)) is not None:
                _refuse_nulls(batch, path)
                yield batch
                progress.advance(task, batch.num_rows)


def ids(batch: pa.RecordBatch, name: str) -> np.ndarray:
    """(R,) int64."""
    return batch.column(name).to_numpy()


def lists(batch: pa.RecordBatch, name: str) -> tuple[np.ndarray, np.ndarray]:
    """All values of the batch's lists, one list after the other, and the length of each."""
    column = batch.column(name)
    return column.flatten().to_numpy(), np.diff(column.offsets.to_numpy())


def matrix(batch: pa.RecordBatch, name: str, width: int, table: str) -> np.ndarray:
    """(R, width). Raises UserError unless every list has `width` values."""
    values, length_R = lists(batch, name)
    if (length_R != width).any():
        wrong = int(length_R[length_R != width][0])
        raise UserError(f"{table}: a list in the column {name} has {wrong} values; expected {width} in every row.")
    return values.reshape(-1, width)


def _open(path: Path, table: str, columns: list[str]) -> pq.ParquetFile:
    try:
        file = pq.ParquetFile(path, buffer_size=BUFFER_BYTES, pre_buffer=False)
    except (pa.ArrowException, OSError) as error:
        raise _damaged(path, error) from error
    found = file.schema_arrow
    for name in columns:
        expected = SCHEMAS[table].field(name).type
        if name not in found.names:
            raise UserError(f"{path} lacks the column {name} ({expected}); it has {', '.join(found.names)}.")
        if not _same(found.field(name).type, expected):
            raise UserError(f"{path}: the column {name} is {found.field(name).type}; expected {expected}.")
    return file


def _same(one: pa.DataType, other: pa.DataType) -> bool:
    """Whether two types are equal, whatever the elements of lists are called."""
    if pa.types.is_list(one) and pa.types.is_list(other):
        return one.value_type == other.value_type
    return one == other


def _next(reader: Iterator[pa.RecordBatch], path: Path) -> pa.RecordBatch | None:
    try:
        return next(reader, None)
    except (pa.ArrowException, OSError) as error:
        raise _damaged(path, error) from error


def _refuse_nulls(batch: pa.RecordBatch, path: Path) -> None:
    for name, column in zip(batch.schema.names, batch.columns, strict=True):
        if column.null_count or (pa.types.is_list(column.type) and column.flatten().null_count):
            raise UserError(f"{path}: the column {name} has a null; a missing id is written as 0.")


def _damaged(path: Path, error: Exception) -> UserError:
    return UserError(f"{path} cannot be read as Parquet ({error}). Delete the file to download it again.")
