"""KuaiRec (Gao et al., 2022): what users of Kuaishou watched in two months of 2020, with captions and categories.

A view is positive where its watch ratio (time watched / length of the video) is above a threshold. A user's positives
are taken by time (file order breaks ties), a video repeated in a row counts once, users with few events are dropped,
items never. Ratios above 1 are the protocol of GLASS (Cao et al., 2026, arXiv 2602.05663), which prints 3,790 users,
10,728 items and a mean history of 884; this keeps more than 7,000 users, unless min_events is raised.
"""

import csv
import math
import warnings
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import IO, Any

import numpy as np
import pyarrow as pa

from datamodules.catalog import ITEM_SCHEMA, UNKNOWN, Catalog, CatalogConfig, build_catalog, data_folder, engine
from datamodules.download import fetch
from sid.errors import UserError, require

ADDRESS = "https://zenodo.org/records/18164998/files/"
ARCHIVE = "KuaiRec.zip"
UNPACKED = ("KuaiRec 2.0/data", "KuaiRec/data", "data")
MATRIX, CAPTIONS = "big_matrix.csv", "kuairec_caption_category.csv"
BLOCK_BYTES = 1 << 24
MATRIX_TYPES = {"user_id": int, "video_id": int, "timestamp": float, "watch_ratio": float}
LEVELS = [f"{place}_level_category_name" for place in ("first", "second", "third")]
CAPTION_COLUMNS = ["video_id", "manual_cover_text", "caption", "topic_tag", *LEVELS]
MISSING = ("", UNKNOWN, "-124", "[]")


@dataclass
class KuaiRecConfig(CatalogConfig):
    """The big matrix of KuaiRec.

    Attributes:
        watch_ratio: positives are strictly above.
        min_events: fewest events of a user once filtered and merged; items are not filtered.
        data_dir: `<data_dir>/kuairec` holds KuaiRec.zip, which is downloaded to there if absent, or what is in it,
            unpacked; empty: the environment's DATA_DIR, else `data`.
    """

    watch_ratio: float = 1.0
    min_events: int = 5
    data_dir: str = field(default="", metadata={"hashed": False})

    @property
    def official(self) -> dict[str, float]:
        """The counts of the whole big matrix, before anything is filtered."""
        return {"users": 7_176, "items": 10_728, "big_matrix_rows": 12_530_806}

    def raw_files(self) -> list[Path]:
        """The zip, or the two files of the unpacked folder that are read; where there is neither, the zip, downloaded.

        Raises:
            UserError: half of an unpacked folder, or nothing there and no download.
        """
        folder = data_folder(self.data_dir) / "kuairec"
        archive = folder / ARCHIVE
        for data in (folder / name for name in UNPACKED if not archive.exists()):
            if (data / MATRIX).exists():
                if not (data / CAPTIONS).exists():
                    raise UserError(f"{data} holds {MATRIX} but no {CAPTIONS}: add it, from {ADDRESS}{CAPTIONS}")
                return [data / MATRIX, data / CAPTIONS]
        try:
            return [fetch(ADDRESS + ARCHIVE, archive, ARCHIVE)]
        except UserError as error:
            raise UserError(
                f"KuaiRec needs {ARCHIVE} in {folder.absolute()}, or the unpacked {UNPACKED[0]}, and the download "
                f"failed: {error} You can fetch it by hand from {ADDRESS}{ARCHIVE}, or set DATA_DIR to the folder that "
                "holds kuairec."
            ) from error

    def build(self) -> Catalog:
        """Read both files and prepare them; times are unix seconds, rounded down.

        Raises:
            UserError: a damaged or incomplete file (with the line), or nothing left after filtering.
        """
        require(self.min_events >= 1, "data.min_events", self.min_events, "at least 1")
        require(self.watch_ratio >= 0, "data.watch_ratio", self.watch_ratio, "at least 0")
        files = self.raw_files()
        views = read_positives(files, self.watch_ratio)
        user_M, video_M, time_M = (views[name].to_numpy() for name in ("user_id", "video_id", "timestamp"))
        kept = views.take(select(user_M, video_M, time_M, self.min_events))
        if kept.num_rows == 0:
            raise UserError(
                f"No interaction is left of {files[0]}: {views.num_rows} views are above data.watch_ratio="
                f"{self.watch_ratio}, and no user has data.min_events={self.min_events} of them. Lower one of the two."
            )
        user, item = (kept[name].cast(pa.string()) for name in ("user_id", "video_id"))
        log = pa.table({"user": user, "item": item, "time": kept["timestamp"], "row": kept["row"]})
        daft = engine()
        return build_catalog(daft.from_arrow(log), daft.from_arrow(read_items(files)), min_count=1)


def read_positives(files: list[Path], watch_ratio: float) -> pa.Table:
    """The views above `watch_ratio` in file order: user_id, video_id, row (int64), timestamp (unix seconds, float64).

    The file is streamed, out of the zip as well. A warning counts the views that lack a timestamp and are left out.

    Raises:
        UserError: a damaged zip, a missing column, a value that is no number (with the line).
    """
    import pyarrow.compute as pc
    import pyarrow.csv

    kinds = {name: pa.int64() if kind is int else pa.float64() for name, kind in MATRIX_TYPES.items()}
    schema = pa.schema([*kinds.items(), ("row", pa.int64())])
    batches: list[pa.RecordBatch] = []
    rows = undated = empty = 0
    with _opened(files, MATRIX) as (place, stream):
        try:
            for batch in pyarrow.csv.open_csv(
                stream,
                pyarrow.csv.ReadOptions(block_size=BLOCK_BYTES),
                convert_options=pyarrow.csv.ConvertOptions(column_types=kinds, include_columns=list(kinds)),
            ):
                empty += sum(batch[name].null_count for name in kinds if name != "timestamp")
                numbered = batch.append_column("row", pa.array(np.arange(rows, rows + batch.num_rows)))
                positive = numbered.filter(pc.greater(batch["watch_ratio"], watch_ratio))
                batches.append(positive.filter(pc.is_finite(positive["timestamp"])))
                rows += batch.num_rows
                undated += positive.num_rows - batches[-1].num_rows
            fault = f"{empty} empty values" if empty else ""
        except (ValueError, KeyError) as error:
            fault = str(error)
    if fault:
        _raise_first_bad_view(files)
        raise UserError(f"{place}: {fault}. Delete the file to download it again.")
    views = pa.Table.from_batches(batches, schema)
    if undated:
        warnings.warn(
            f"{place}: {undated:,} of {views.num_rows + undated:,} views above watch_ratio={watch_ratio} have no "
            "timestamp and are left out",
            stacklevel=2,
        )
    return views.drop_columns("watch_ratio")


def select(user_M: np.ndarray, video_M: np.ndarray, time_M: np.ndarray, min_events: int) -> np.ndarray:
    """Which of M views are events, ordered by user and time: no video twice in a row, no user with too few."""
    order_M = np.lexsort((time_M, user_M))  # stable
    user_M, video_M = user_M[order_M], video_M[order_M]
    new_M = np.ones(len(order_M), dtype=bool)
    new_M[1:] = (user_M[1:] != user_M[:-1]) | (video_M[1:] != video_M[:-1])
    _, number_M, count_U = np.unique(user_M[new_M], return_inverse=True, return_counts=True)
    return order_M[new_M][count_U[number_M] >= min_events]


def read_items(files: list[Path]) -> pa.Table:
    """Descriptions (columns of ITEM_SCHEMA) of the videos.

    title is the caption, text the words on the cover and the topic tags, categories the named levels, category the
    first of them. item_categories.csv is left aside: its tags are numbers without names, and those of 2,860 of the
    10,728 videos do not contain the first level.

    Raises:
        UserError: a damaged zip, a missing column, a row with too many or too few values, a video_id that is no number
            or there twice (with the line).
    """
    rows: dict[int, dict[str, Any]] = {}
    with _opened(files, CAPTIONS) as (place, stream):
        for line, entry in _records(place, stream, CAPTION_COLUMNS):
            video = _number(place, line, entry, "video_id", int)
            if video in rows:
                raise _line_error(place, line, "expected each video_id once", str(video))
            rows[video] = {"item": str(video), **_describe(entry)}
    return pa.Table.from_pylist(list(rows.values()), schema=ITEM_SCHEMA)


def _describe(entry: dict[str, str]) -> dict[str, Any]:
    levels = [_known(entry[name]) for name in LEVELS]
    tags = (_known(entry["topic_tag"]) or "").removeprefix("[").removesuffix("]").split(",")
    words = [_known(entry["manual_cover_text"]), ", ".join(filter(None, map(str.strip, tags)))]
    return {
        "title": _known(entry["caption"]),
        "categories": [level for level in levels if level],
        "category": levels[0],
        "text": "; ".join(filter(None, words)) or None,
    }


def _known(text: str) -> str | None:
    folded = " ".join(text.split())
    return None if folded in MISSING else folded


@contextmanager
def _opened(files: list[Path], name: str) -> Iterator[tuple[str, IO[bytes]]]:
    """One of the csv files, from the zip or the folder, after what to call it in a message."""
    path = files[0] if files[0].name == ARCHIVE else next(file for file in files if file.name == name)
    try:
        if path.name == name:
            with path.open("rb") as stream:
                yield str(path), stream
            return
        with zipfile.ZipFile(path) as archive:
            member = next((member for member in archive.namelist() if PurePosixPath(member).name == name), None)
            if member is None:
                raise UserError(
                    f"{path} holds no {name}. Delete the zip to download it again; or unpack it beside itself, add the "
                    f"file from {ADDRESS}{name} to the data folder, and delete the zip."
                )
            with archive.open(member) as stream:
                yield f"{path}, {member}", stream
    except (OSError, EOFError, zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError) as error:
        raise UserError(f"{path} cannot be read ({error}). Delete it to download it again.") from error


def _records(place: str, stream: IO[bytes], columns: list[str]) -> Iterator[tuple[int, dict[str, str]]]:
    """(line of its start, values by column) of each row of a csv file that has at least `columns`."""
    reader = csv.reader(_lines(place, stream))
    line = 1
    try:
        header = next(reader, [])
        if not set(columns) <= set(header):
            raise _line_error(place, line, f"expected the columns {', '.join(columns)}", ", ".join(header))
        line = reader.line_num + 1
        for row in reader:
            if row and len(row) != len(header):
                raise _line_error(place, line, f"expected {len(header)} values and not {len(row)}", ",".join(row))
            if row:
                yield line, dict(zip(header, row, strict=True))
            line = reader.line_num + 1
    except csv.Error as error:
        raise UserError(f"{place}, line {line}: {error}. Repair the line, or download the file again.") from error


def _lines(place: str, stream: IO[bytes]) -> Iterator[str]:
    """Text lines. Only a line feed ends one: four official captions hold a carriage return, unquoted."""
    for number, line in enumerate(stream, 1):
        try:
            yield line.decode("utf-8-sig").replace("\r\n", "\n").replace("\r", " ")
        except UnicodeDecodeError as error:
            raise _line_error(place, number, "expected UTF-8", repr(line[error.start : error.end])) from error


def _raise_first_bad_view(files: list[Path]) -> None:
    with _opened(files, MATRIX) as (place, stream):
        for line, entry in _records(place, stream, list(MATRIX_TYPES)):
            for name, kind in MATRIX_TYPES.items():
                if entry[name] or name != "timestamp":
                    _number(place, line, entry, name, kind)


def _number(place: str, line: int, entry: dict[str, str], name: str, kind: type) -> Any:
    try:
        number = kind(entry[name])
    except ValueError:
        number = math.nan
    if math.isnan(number):
        raise _line_error(place, line, f"expected {name} ({kind.__name__})", entry[name])
    return number


def _line_error(place: str, line: int, expected: str, found: str) -> UserError:
    return UserError(
        f"{place}, line {line}: {expected}, found: {found[:80]!r}. Repair the line, or download the file again."
    )
