"""Reading the columns of a table of your own, Parquet or CSV."""

import codecs
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from datamodules.catalog import engine
from sid.errors import UserError

if TYPE_CHECKING:
    import daft

BLOCK_BYTES = 1 << 24


def read(path: Path, columns: dict[str, str]) -> "daft.DataFrame":
    """The wanted columns under our names, with `row`, the place in the file. CSV values stay text."""
    daft = engine()
    if path.suffix.lower() == ".csv":
        return daft.from_arrow(_read_csv(path, columns))
    literal = re.sub(r"([\\\[\]*?{}])", r"\\\1", str(path.absolute()))  # Daft takes a path for a pattern, or an address
    try:
        frame = daft.read_parquet(literal)
        _require_columns(path, columns, frame.column_names)
        frame = frame.select(*(daft.col(column).alias(name) for name, column in columns.items()))
        row = daft.functions.monotonically_increasing_id().cast(daft.DataType.int64())
        return frame.with_column("row", row).collect()
    except daft.exceptions.DaftCoreException as error:
        raise unreadable(path, error) from error


def _read_csv(path: Path, columns: dict[str, str]) -> pa.Table:
    """By pyarrow: Daft's reader takes a newline within quotes for the end of a row where it cuts a large file."""
    import pyarrow.csv

    _check_utf8(path)
    wanted = list(dict.fromkeys(columns.values()))
    blocks = pyarrow.csv.ReadOptions(block_size=BLOCK_BYTES)
    parse = pyarrow.csv.ParseOptions(newlines_in_values=True)
    try:
        with pyarrow.csv.open_csv(path, blocks, parse) as reader:
            _require_columns(path, columns, reader.schema.names)
        as_text = pyarrow.csv.ConvertOptions(include_columns=wanted, column_types=dict.fromkeys(wanted, pa.string()))
        table = pyarrow.csv.read_csv(path, blocks, parse, as_text)
    except pa.ArrowInvalid as error:
        raise unreadable(path, error) from error
    table = table.select(list(columns.values())).rename_columns(list(columns))
    return table.append_column("row", pa.array(np.arange(table.num_rows)))


def _require_columns(path: Path, columns: dict[str, str], present: Sequence[str]) -> None:
    """Raises UserError unless each of the wanted columns is there, once."""
    for name, column in columns.items():
        if column not in present:
            raise UserError(
                f"{path} has no column {column!r}; it has {', '.join(map(repr, present)) or 'none'}. "
                f"Set {_setting(name)} to the right name."
            )
        if (times := list(present).count(column)) > 1:
            raise UserError(f"{path} has {times} columns {column!r}. Rename all but one.")


def collect(frame: "daft.DataFrame", path: Path) -> "daft.DataFrame":
    """The frame, computed. Raises UserError where values cannot be read."""
    try:
        return frame.collect()
    except engine().exceptions.DaftCoreException as error:
        raise unreadable(path, error) from error


def unreadable(path: Path, error: Exception) -> UserError:
    return UserError(f"{path} cannot be read as {path.suffix[1:].lower()}: {error}. Repair the file.")


def _setting(name: str) -> str:
    setting = "category_column" if name == "categories" else f"{name}_column"
    return setting if name in ("user", "item", "time") else f'{setting} (or "" if there is none)'


def _check_utf8(path: Path) -> None:
    """Raises UserError for the first line that is not UTF-8; pyarrow names none."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    lines = 1
    with open(path, "rb") as file:
        while True:
            block = file.read(BLOCK_BYTES)
            try:
                decoder.decode(block, final=not block)
            except UnicodeDecodeError as error:
                lines += error.object[: error.start].count(b"\n")
                raise UserError(f"{path}, line {lines}: not UTF-8 text ({error.reason}). Save it as UTF-8.") from error
            if not block:
                return
            lines += block.count(b"\n")
