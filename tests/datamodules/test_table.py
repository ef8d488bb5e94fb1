import datetime as dt
import warnings
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from omegaconf import OmegaConf

from datamodules.catalog import Catalog
from datamodules.table import TableConfig
from sid.errors import UserError

EVENTS = "user,item,time\nann,7,30\nann,8,10\nbob,7,20\n"
ITEMS = "item,title\n8,Tea\n7,Cup\n9,Unsold\n"


def config(folder: Path, events: str | bytes = EVENTS, items: str = ITEMS, **settings: object) -> TableConfig:
    for name, text in (("events.csv", events), ("items.csv", items)):
        (folder / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    return TableConfig(str(folder / "events.csv"), str(folder / "items.csv"), **({"min_count": 1} | settings))  # type: ignore[arg-type]


def names(catalog: Catalog) -> list[str]:
    return [catalog.items["item"][int(i)].as_py() for i in catalog.item_M]


def test_csv_gives_the_same_catalogue_as_parquet(tmp_path: Path):
    from_csv = config(tmp_path).build()
    events = {"user": ["ann", "ann", "bob"], "item": [7, 8, 7], "time": [30, 10, 20]}
    pq.write_table(pa.table(events), tmp_path / "events.parquet")
    pq.write_table(pa.table({"item": [8, 7], "title": ["Tea", "Cup"]}), tmp_path / "items.parquet")
    from_parquet = TableConfig(str(tmp_path / "events.parquet"), str(tmp_path / "items.parquet"), min_count=1).build()
    for catalog in (from_csv, from_parquet):
        assert catalog.users["user"].to_pylist() == ["ann", "bob"]
        assert names(catalog) == ["8", "7", "7"] and catalog.time_M.tolist() == [10, 30, 20]
        assert catalog.items["title"].to_pylist() == ["Tea", "Cup"]


def test_every_optional_column_is_read_under_its_own_name(tmp_path: Path):
    items = "sku,name,maker,cost,path,blurb\n007,Tea,Acme,2.50, Food > Hot drinks >Tea,nice\n7,,,,,\n"
    catalog = config(
        tmp_path,
        "who,sku,at,stars\na,007,1,5\na,7,2,4\na,7,3,1\n",
        items,
        user_column="who",
        item_column="sku",
        time_column="at",
        title_column="name",
        brand_column="maker",
        price_column="cost",
        category_column="path",
        category_level=1,
        text_column="blurb",
        rating_column="stars",
        min_rating=4,
    ).build()
    tea, other = catalog.items.to_pylist()
    assert tea == {
        "item": "007",
        "title": "Tea",
        "brand": "Acme",
        "price": 2.5,
        "categories": ["Food", "Hot drinks", "Tea"],
        "category": "Hot drinks",
        "text": "nice",
        "candidate": None,
    }
    nulls = dict.fromkeys(("title", "brand", "price", "text", "candidate"))
    assert other == {"item": "7", "categories": [], "category": "UNKNOWN"} | nulls
    assert catalog.num_events == 2


NOON = dt.datetime(2014, 5, 1, 12)
SECONDS = int(NOON.replace(tzinfo=dt.UTC).timestamp())


@pytest.mark.parametrize(
    "text", ["2014-05-01T12:00:00", "2014-05-01 12:00:00.9", "2014-05-01T14:00:00+02:00", "1398945600.5"]
)
def test_times_as_text(tmp_path: Path, text: str):
    assert config(tmp_path, f"user,item,time\na,7,{text}\n").build().time_M.tolist() == [SECONDS]


@pytest.mark.parametrize(
    ("values", "seconds"),
    [
        (pa.array([NOON], pa.timestamp("ns")), SECONDS),
        (pa.array([NOON], pa.timestamp("ms", "Europe/Paris")), SECONDS),
        (pa.array([NOON.date()]), SECONDS - 12 * 3600),
        (pa.array([12.75]), 12),
        (pa.array([2**60], pa.int64()), 2**60),
        (pa.array([3], pa.int16()), 3),
    ],
)
def test_times_as_parquet_types(tmp_path: Path, values: pa.Array, seconds: int):
    config(tmp_path)
    pq.write_table(pa.table({"user": [1], "item": [7], "time": values}), tmp_path / "events.parquet")
    catalog = TableConfig(str(tmp_path / "events.parquet"), str(tmp_path / "items.csv"), min_count=1).build()
    assert catalog.time_M.tolist() == [seconds]


def test_large_whole_numbers_as_text_keep_their_order(tmp_path: Path):
    late = 1_400_000_000_000_000_000
    catalog = config(tmp_path, f"user,item,time\na,7,{late + 101}\na,8,{late + 1}\n").build()
    assert names(catalog) == ["8", "7"] and catalog.time_M.tolist() == [late + 1, late + 101]


def test_unsigned_times_that_do_not_fit_are_named(tmp_path: Path):
    config(tmp_path)
    late = pa.array([1, 2**63], pa.uint64())
    pq.write_table(pa.table({"user": [1, 1], "item": [7, 8], "time": late}), tmp_path / "events.parquet")
    with pytest.raises(UserError, match="column 'time', row 2 .* is too large for 64 bits"):
        TableConfig(str(tmp_path / "events.parquet"), str(tmp_path / "items.csv"), min_count=1).build()


def test_newlines_within_quotes_of_a_large_file_end_no_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Lines within the quotes look like rows, and are many times what is read at once."""
    monkeypatch.setattr("datamodules.table_files.BLOCK_BYTES", 2000)
    note = '"' + "\nghost,8,1,x" * 100 + '"'
    rows = "".join(f"user{row},7,{row},{note}\n" for row in range(5000))
    catalog = config(tmp_path, "user,item,time,note\n" + rows).build()
    assert (tmp_path / "events.csv").stat().st_size > 5e6 and catalog.num_events == 5000
    assert set(names(catalog)) == {"7"}


@pytest.mark.parametrize("name", ["my shop", "a%20b", "x:y"])
def test_relative_paths_are_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str):
    folder = tmp_path / name
    folder.mkdir()
    config(folder)
    pq.write_table(pa.table({"user": ["a"], "item": [7], "time": [1]}), folder / "events.parquet")
    monkeypatch.chdir(tmp_path)
    for events in ("events.csv", "events.parquet"):
        assert TableConfig(f"{name}/{events}", f"{name}/items.csv", min_count=1).build().num_events


def test_a_rating_that_is_nan_is_none(tmp_path: Path):
    rated = config(tmp_path, "user,item,time,stars\na,7,1,5\na,8,2,nan\n", rating_column="stars", min_rating=3)
    with pytest.raises(UserError, match="column 'stars', row 2 .* has no value"):
        rated.build()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"min_count": 0}, "data.min_count=0"),
        ({"category_level": -1}, "data.category_level=-1"),
        ({"min_rating": 3.0}, "data.min_rating=3.0"),
    ],
)
def test_settings_that_nothing_obeys_are_refused(tmp_path: Path, settings: dict[str, float], message: str):
    with pytest.raises(UserError, match=message):
        config(tmp_path, **settings).build()


def test_truth_and_dates_are_words_like_others(tmp_path: Path):
    good = config(tmp_path, "user,item,time\na,7,1\n")
    table = {"item": [7], "title": pa.array([NOON.date()]), "digital": [True]}
    pq.write_table(pa.table(table), tmp_path / "items.parquet")
    items = str(tmp_path / "items.parquet")
    (found,) = TableConfig(good.interactions, items, category_column="digital", min_count=1).build().items.to_pylist()
    assert (found["category"], found["title"][:4]) == ("true", "2014")


@pytest.mark.parametrize(
    ("column", "values", "message"),
    [
        ("cost", pa.array([[1.0]]), "column 'cost': values are .*; expected numbers"),
        ("path", pa.array([["a"]], pa.list_(pa.string(), 1)), "'path': values are .*; expected text or lists of"),
        ("title", pa.array([["a"]]), "column 'title': values are .*; expected text"),
    ],
)
def test_values_of_another_kind_are_named(tmp_path: Path, column: str, values: pa.Array, message: str):
    good = config(tmp_path)
    table = {"item": [7], "title": pa.array(["a"]), "cost": pa.array([1.0]), "path": pa.array(["b"])} | {column: values}
    pq.write_table(pa.table(table), tmp_path / "items.parquet")
    with pytest.raises(UserError, match=message):
        TableConfig(
            good.interactions, str(tmp_path / "items.parquet"), price_column="cost", category_column="path"
        ).build()


def test_parts_of_a_second_still_order_the_events(tmp_path: Path):
    assert names(config(tmp_path, "user,item,time\na,7,1.9\na,8,1.2\n").build()) == ["8", "7"]


@pytest.mark.parametrize(
    ("events", "items", "message"),
    [
        (
            "user,sku,time\na,7,1\n",
            ITEMS,
            r"events.csv has no column 'item'; it has 'user', 'sku', 'time'. Set item_col",
        ),
        (
            EVENTS,
            "item,name\n7,x\n",
            r"items.csv has no column 'title'; .* Set title_column \(or \"\" if there is none\)",
        ),
        ("", ITEMS, r"events.csv cannot be read as csv: Empty CSV file"),
        ("user,item,time,user\na,7,1,b\n", ITEMS, r"events.csv has 2 columns 'user'. Rename all but one"),
        (EVENTS + ",7,1\n", ITEMS, r"events.csv, column 'user', row 4 .* has no value\. Repair"),
        (EVENTS + "a,,1\na,,2\n", ITEMS, r"column 'item', row 4 .* has no value \(1 more rows like it\)"),
        (EVENTS + "a,7,\n", ITEMS, r"column 'time', row 4 .* has no value"),
        (EVENTS + "a,7,noon\n", ITEMS, r"column 'time', row 4 .* 'noon' is not a number like the first row"),
        ("user,item,time\na,7,2014-05-01\na,7,1 May\n", ITEMS, r"row 2 .* '1 May' is not a date such as"),
        (EVENTS + "a,7,inf\n", ITEMS, r"column 'time', row 4 .* is not finite"),
        (EVENTS + f"a,7,{2**63}\n", ITEMS, r"column 'time', row 4 .* is too large for 64 bits"),
        (EVENTS + "a,1,1\na,2,1\na,2,1\n", ITEMS, r"items.csv lacks 2 items that occur in column 'item' of .*'1', '2'"),
        (EVENTS, ITEMS + "8,Tea again\n", r"items.csv, column 'item', row 4: item '8' is listed 2 times"),
        (EVENTS + "a,7\n", ITEMS, r"events.csv cannot be read as csv: .*Expected 3 columns, got 2"),
        (EVENTS.encode() + b"\xe9,7,1\n", ITEMS, r"events.csv, line 5: not UTF-8"),
    ],
)
def test_bad_input_is_named_by_file_column_and_row(tmp_path: Path, events: str | bytes, items: str, message: str):
    with pytest.raises(UserError, match=message):
        config(tmp_path, events, items).build()


def test_a_price_that_is_no_number_and_ids_that_are_floats_are_named(tmp_path: Path):
    with pytest.raises(UserError, match="column 'cost', row 2 .* '3 pounds' is not a number"):
        config(tmp_path, items="item,title,cost\n7,a,\n8,b,3 pounds\n", price_column="cost").build()
    pq.write_table(pa.table({"user": [1.0], "item": [7], "time": [1]}), tmp_path / "events.parquet")
    with pytest.raises(UserError, match="column 'user': ids are Float64; expected integers or strings"):
        TableConfig(str(tmp_path / "events.parquet"), str(tmp_path / "items.csv")).build()


def test_missing_files_other_formats_and_an_empty_core(tmp_path: Path):
    good = config(tmp_path, min_count=2)
    with pytest.raises(UserError, match="No interaction is left of 3"):
        good.build()
    with pytest.raises(UserError, match=r"no file .*nowhere.csv \(items=\)"):
        TableConfig(good.interactions, str(tmp_path / "nowhere.csv")).raw_files()
    (tmp_path / "items.xlsx").touch()
    with pytest.raises(UserError, match="ends in '.xlsx'; expected .parquet or .csv"):
        TableConfig(good.interactions, str(tmp_path / "items.xlsx")).raw_files()


def test_a_path_is_no_pattern_and_categories_may_be_lists(tmp_path: Path):
    folder = tmp_path / "my [1] {a}*?"
    folder.mkdir()
    good = config(folder)
    lists = pa.table({"item": [7, 8], "title": ["Cup", "Tea"], "path": [["Home", "Cups"], None]})
    pq.write_table(lists, folder / "items.parquet")
    settings = {"title_column": "", "category_column": "path", "min_count": 1}
    catalog = TableConfig(good.interactions, str(folder / "items.parquet"), **settings).build()  # type: ignore[arg-type]
    assert catalog.items["categories"].to_pylist() == [[], ["Home", "Cups"]]
    assert catalog.items["category"].to_pylist() == ["UNKNOWN", "Home"]
    assert catalog.items["title"].null_count == 2


@pytest.mark.parametrize(("level", "category"), [(0, "Home"), (1, ""), (5, "UNKNOWN")])
def test_one_category_for_all_items_is_a_warning_that_names_the_level(tmp_path: Path, level: int, category: str):
    items = "item,title,path\n7,Cup,Home > Cups\n8,Tea,Home > Tea\n"
    table = config(tmp_path, items=items, category_column="path", category_level=level)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        table.build()
    said = [str(warning.message) for warning in caught if "category_level" in str(warning.message)]
    assert len(said) == bool(category)
    assert all(f"'{category}': category_level={level} of column 'path'" in message for message in said)


def test_the_config_is_an_omegaconf_schema():
    merged = OmegaConf.merge(OmegaConf.structured(TableConfig), {"interactions": "a.csv", "items": "b.csv"})
    assert OmegaConf.to_object(merged) == TableConfig("a.csv", "b.csv")
