"""The made-up TAOBAO-MM: the official format, and the interest it is made to hide.

E examples, U rows of users.
"""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from datamodules.catalog import Catalog
from datamodules.split import Split, SplitConfig
from datamodules.taobao_mm import TaobaoMMConfig
from datamodules.taobao_synthetic import CLUSTERS, RECENT, interests, raw_ids, write_taobao
from datamodules.taobao_tables import HISTORY, HISTORY_CATEGORIES, SCHEMAS, table_files
from sid.errors import UserError


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    write_taobao(folder / "taobao_mm", users=2000, history=120, items=400, samples_per_user=6, shards=3)
    return folder


@pytest.fixture(scope="module")
def prepared(folder: Path) -> tuple[Catalog, Split]:
    catalog = TaobaoMMConfig(data_dir=str(folder)).build()
    return catalog, SplitConfig("given").build(catalog)


def test_the_files_have_the_official_schemas_and_the_wanted_size(folder: Path) -> None:
    rows = dict.fromkeys(SCHEMAS, 400) | {"train_user_features": 1600, "test_user_features": 400}
    rows |= {"train_samples": 9600, "test_samples": 2400}
    for name, schema in SCHEMAS.items():
        files = table_files(folder / "taobao_mm", name)
        assert len(files) == 3 and all(pq.read_schema(file).equals(schema) for file in files)
        assert sum(pq.read_metadata(file).num_rows for file in files) == rows[name]


def test_the_interest_shows_in_the_long_history_alone_and_every_click_is_of_it(folder: Path) -> None:
    interest_of = dict(zip(raw_ids("user", np.arange(1600)).tolist(), interests(np.arange(1600)), strict=True))
    cluster_of = {raw: number for number, raw in enumerate(raw_ids("category", np.arange(CLUSTERS)).tolist())}
    for file in table_files(folder / "taobao_mm", "train_user_features"):
        for row in pq.read_table(file).to_pylist():
            clusters = [cluster_of[raw] for raw in row[HISTORY_CATEGORIES]]
            assert RECENT < len(row[HISTORY]) <= 120
            assert interest_of[row["129_1"]] not in clusters[-RECENT:] and len(set(clusters[-RECENT:])) <= 3
    category_of = {
        row["205"]: cluster_of[row["206"]]
        for file in table_files(folder / "taobao_mm", "item_features")
        for row in pq.read_table(file).to_pylist()
    }
    for file in table_files(folder / "taobao_mm", "train_samples"):
        for row in pq.read_table(file).to_pylist():
            assert (category_of[row["205"]] == interest_of[row["129_1"]]) == (row["label_0"] == [0, 1])


def test_who_knows_the_long_history_knows_the_cluster_and_who_knows_the_recent_one_is_at_a_loss(
    prepared: tuple[Catalog, Split],
) -> None:
    catalog, split = prepared
    category_N = np.unique(catalog.items["category"].to_pylist(), return_inverse=True)[1]

    def found(old: int | None, new: int | None) -> float:
        """Share of the test samples whose target is of the most frequent category of a stretch of the history."""
        hits = 0
        for user, target, end in zip(*split.test, strict=True):
            seen = category_N[catalog.item_M[catalog.offsets_U1[user] : end][old:new]]
            hits += category_N[catalog.item_M[target]] == np.bincount(seen).argmax()
        return hits / len(split.test.user_E)

    assert found(None, -RECENT) > 0.9 and found(-RECENT, None) == 0


def test_enough_items_can_be_recommended_that_guessing_does_not_help(prepared: tuple[Catalog, Split]) -> None:
    catalog, split = prepared
    assert len(catalog.candidates) > 50
    count_N = np.bincount(catalog.item_M[split.train.target_E], minlength=catalog.num_items)
    assert np.isin(catalog.item_M[split.test.target_E], np.argsort(-count_N)[:10]).mean() < 0.4


def test_the_same_seed_writes_the_same_tables(tmp_path: Path) -> None:
    for name, seed in (("one", 1), ("same", 1), ("other", 2)):
        write_taobao(tmp_path / name, users=10, history=60, items=40, samples_per_user=2, seed=seed)
    for table in SCHEMAS:
        one, same, other = (pq.read_table(tmp_path / name / f"{table}.parquet") for name in ("one", "same", "other"))
        assert one.equals(same) and (table == "item_features" or not one.equals(other))


def test_ids_are_distinct_and_never_missing() -> None:
    ids = np.concatenate([raw_ids(kind, np.arange(10_000)) for kind in ("user", "item", "category")])
    assert len(np.unique(ids)) == 30_000 and 0 not in ids and ids.min() < 0 < ids.max()


def test_sizes_that_cannot_hold_the_structure_are_refused(tmp_path: Path) -> None:
    good = {"users": 10, "history": 60, "items": 40, "samples_per_user": 2}
    for name, value in (("users", 4), ("history", 50), ("items", 19), ("samples_per_user", 0), ("shards", 0)):
        with pytest.raises(UserError, match=f"{name}={value}: expected"):
            write_taobao(tmp_path, **good | {name: value})


def test_the_command_writes_the_tables(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "datamodules.taobao_synthetic", str(tmp_path / "taobao_mm"), "--users", "20"]
    subprocess.run([*command, "--history", "60", "--items", "40", "--samples-per-user", "2"], check=True)
    assert {path.stem for path in (tmp_path / "taobao_mm").iterdir()} == set(SCHEMAS)
    again = subprocess.run([*command, "--shards", "2"], capture_output=True, text=True)
    assert again.returncode == 2 and "Traceback" not in again.stderr
    assert "train_samples.parquet is there already; choose another folder" in again.stderr
