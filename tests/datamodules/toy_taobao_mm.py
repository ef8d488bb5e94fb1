"""Small tables of TAOBAO-MM and their files, for `test_taobao_mm.py` and `test_taobao_tables.py`."""

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from datamodules.taobao_tables import SCHEMAS, VECTORS

Tables = dict[str, list[dict[str, Any]]]
PROFILE = {f"130_{place}": place for place in range(1, 6)}
CLICK, SKIP = [0, 1], [1, 0]


def user(raw: int, items: list[int], categories: list[int] | None = None) -> dict[str, Any]:
    return {"129_1": raw, **PROFILE, "150_2_180": items, "151_2_180": categories or [10 * abs(i) for i in items]}


def sample(raw: int, item: int, label: list[int] = CLICK) -> dict[str, Any]:
    return {"label_0": label, "129_1": raw, "205": item}


def vector(item: int) -> dict[str, Any]:
    return {"205": item, "205_c": [item] * 127 + [-127]}


def feature(item: int, category: int) -> dict[str, Any]:
    return {"205": item, "206": category, "213": 1, "214": 2}


SMALL: Tables = {
    "train_samples": [sample(1, -5), sample(1, 3, SKIP), sample(2, 3), sample(1, 3)],
    "test_samples": [sample(1, 3), sample(1, -5), sample(3, 3, SKIP)],
    "train_user_features": [user(2, [9, 0, 7, 9]), user(1, [4, 7, 3]), user(8, [6, 6])],
    "test_user_features": [user(1, [4, 7, 3, -5, 6]), user(3, [7])],
    "item_features": [feature(3, 33), feature(-5, 0)],
    VECTORS: [vector(item) for item in (7, 3, 4, -5, 6)],
}


def write(folder: Path, tables: Tables, cut: Callable[[int], list[int]] | None = None) -> str:
    """Write the tables below `folder`, a file each, or where `cut` says after which rows, as shards; the data_dir."""
    for name, rows in tables.items():
        table = pa.Table.from_pylist(rows, schema=SCHEMAS[name])
        place = folder / "taobao_mm"
        if cut is None:
            place.mkdir(exist_ok=True)
            pq.write_table(table, place / f"{name}.parquet")
            continue
        (place / name).mkdir(parents=True)
        bounds = [0, *cut(len(rows)), len(rows)]
        for shard, (start, stop) in enumerate(pairwise(bounds)):
            pq.write_table(table.slice(start, stop - start), place / name / f"{shard:03d}.parquet", row_group_size=2)
    return str(folder)
