"""The tables of TAOBAO-MM: where they are found, what is wrong with them or with the settings, and the official
previews' schemas."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from datamodules import taobao_tables
from datamodules.taobao_mm import TaobaoMMConfig
from datamodules.taobao_tables import SCHEMAS, VECTORS
from sid.errors import UserError
from tests.datamodules.toy_taobao_mm import SMALL, write


def spoil(folder: Path, name: str, change: Callable[[pa.Table], pa.Table]) -> None:
    path = folder / "taobao_mm" / f"{name}.parquet"
    pq.write_table(change(pq.read_table(path)), path)


def as_type(column: str, kind: pa.DataType) -> Callable[[pa.Table], pa.Table]:
    return lambda table: table.set_column(table.column_names.index(column), column, table[column].cast(kind))


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("train_samples", lambda t: t.drop_columns("205"), r"train_samples.parquet lacks the column 205 \(int64\)"),
        ("train_samples", as_type("129_1", pa.string()), r"the column 129_1 is string; expected int64"),
        (
            "test_user_features",
            as_type("150_2_180", pa.list_(pa.int32())),
            r"150_2_180 is list<.*int32>; expected list<",
        ),
        (VECTORS, as_type("205_c", pa.list_(pa.float32())), r"205_c is list<.*float>; expected list<.*int8>"),
        (
            VECTORS,
            lambda t: pa.table([t["205"], [[1] * 127] * 5], schema=t.schema),
            r"205_c has 127 values; expected 128",
        ),
        (
            "test_samples",
            lambda t: pa.table([[[1]] * 3, *t.columns[1:]], schema=t.schema),
            r"label_0 has 1 values; .* 2",
        ),
        ("item_features", lambda t: t.slice(0, 1).set_column(1, "206", [[None]]).cast(t.schema), r"206 has a null"),
        ("train_user_features", lambda t: pa.concat_tables([t, t.slice(1, 1)]), r"user 1 has two rows"),
        (
            "train_user_features",
            lambda t: t.set_column(7, "151_2_180", pa.array([[1]] * 3)).cast(t.schema),
            r"user 2 has 4 items in 150_2_180 and 1 categories in 151_2_180",
        ),
        ("test_user_features", lambda t: t.slice(1), r"no user of the test part is left. 1 users .* row for 0 of them"),
        (
            "test_samples",
            lambda t: t.slice(2),
            r"no item can be a target. Of 2 items .* 2 have .* 0 of these .* 5 items",
        ),
        (
            VECTORS,
            lambda t: t.slice(0, 1),
            r"none of these is among the 1 items with a vector. Lower data.min_train_click",
        ),
    ],
)
def test_what_is_wrong_with_a_table_is_said(
    tmp_path: Path, name: str, change: Callable[[pa.Table], pa.Table], message: str
) -> None:
    config = TaobaoMMConfig(min_train_clicks=1, data_dir=write(tmp_path, SMALL))
    spoil(tmp_path, name, change)
    with pytest.raises(UserError, match=message):
        config.build()


@pytest.mark.parametrize("name", ["train_samples", VECTORS])
def test_a_truncated_and_a_damaged_file_are_named(tmp_path: Path, name: str) -> None:
    config = TaobaoMMConfig(min_train_clicks=1, data_dir=write(tmp_path, SMALL))
    path = tmp_path / "taobao_mm" / f"{name}.parquet"
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(UserError, match=rf"{name}.parquet cannot be read as Parquet .*Delete the file"):
        config.build()
    path.write_bytes(content[:4] + b"\xff" * 60 + content[64:])
    with pytest.raises(UserError, match=rf"{name}.parquet cannot be read as Parquet"):
        config.build()


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"targets": "oldest"}, "data.targets=oldest: expected clicks or newest"),
        ({"min_train_clicks": 0}, "data.min_train_clicks=0: expected at least 1"),
        ({"num_targets": 0}, "data.num_targets=0: expected at least 1"),
    ],
)
def test_a_wrong_setting_is_named(setting: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        TaobaoMMConfig(**setting).raw_files()


def test_tables_are_found_in_every_layout_and_else_downloaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def fetch(url: str, target: Path, label: str) -> Path:
        asked.append(url)
        raise UserError("no network.")

    monkeypatch.setattr(taobao_tables, "fetch", fetch)
    folder = tmp_path / "taobao_mm"
    for name in (
        "train_samples.parquet",
        "raw/test_samples.parquet",
        "raw/train_user_features/0.parquet",
        "raw/train_user_features/1.parquet",
        "test_user_features-00000-of-00001.parquet",
    ):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    with pytest.raises(UserError, match=r"needs the table item_features in .*taobao_mm .*no network.* huggingface-cli"):
        TaobaoMMConfig(data_dir=str(tmp_path)).raw_files()
    assert asked == ["https://huggingface.co/datasets/TaoBao-MM/Taobao-MM/resolve/main/raw/item_features.parquet"]
    monkeypatch.setattr(taobao_tables, "fetch", lambda url, target, label: target)
    files = [path.relative_to(folder).as_posix() for path in TaobaoMMConfig(data_dir=str(tmp_path)).raw_files()]
    assert files[:3] == ["train_samples.parquet", "raw/test_samples.parquet", "raw/train_user_features/0.parquet"]
    assert files[3:5] == ["raw/train_user_features/1.parquet", "test_user_features-00000-of-00001.parquet"]
    assert files[5:] == ["item_features.parquet", "scl_embedding_int8_p90.parquet"]


def test_the_official_previews_have_the_stated_schemas_and_join_with_nothing(data_dir: Path) -> None:
    for name, schema in SCHEMAS.items():
        assert pq.read_schema(data_dir / "taobao_mm" / f"{name}.parquet").equals(schema)
    with pytest.raises(UserError, match="Of 0 items that were clicked in the training part.*data.targets=newest"):
        TaobaoMMConfig(min_train_clicks=1, data_dir=str(data_dir)).build()
