"""U users, N items, M events."""

import shutil
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from datamodules.catalog import ITEM_SCHEMA, Catalog, build_catalog, data_folder, engine
from datamodules.synthetic import SyntheticConfig
from sid.errors import UserError

Event = tuple[str, str, int]


def build(events: list[Event], min_count: int, items: list[dict] | None = None) -> Catalog:
    users, names, times = zip(*events, strict=True)
    log = pa.table({"user": users, "item": names, "time": times, "row": np.arange(len(events))})
    described = pa.Table.from_pylist(items or [], schema=ITEM_SCHEMA)
    return build_catalog(engine().from_arrow(log), engine().from_arrow(described), min_count)


def as_lists(catalog: Catalog) -> dict[str, list[tuple[str, int]]]:
    users, items = catalog.users["user"].to_pylist(), catalog.items["item"].to_pylist()
    spans = zip(users, catalog.offsets_U1[:-1], catalog.offsets_U1[1:], strict=True)
    return {
        u: [(items[i], int(t)) for i, t in zip(catalog.item_M[a:b], catalog.time_M[a:b], strict=True)]
        for u, a, b in spans
    }


def slow_preparation(events: list[Event], min_count: int) -> dict[str, list[tuple[str, int]]]:
    """S3-Rec in plain Python; the order of the keys is the order of the user ids."""
    sequences: dict[str, list[tuple[str, int]]] = {}
    for user, item, time in events:
        sequences.setdefault(user, []).append((item, time))
    for events_of_user in sequences.values():
        events_of_user.sort(key=lambda event: event[1])
    while True:
        counts = Counter(item for sequence in sequences.values() for item, _ in sequence)
        kept = {u: [e for e in s if counts[e[0]] >= min_count] for u, s in sequences.items()}
        kept = {u: s for u, s in kept.items() if len(s) >= max(min_count, 1)}
        if kept == sequences:
            return kept
        sequences = kept


event_lists = st.lists(st.tuples(st.sampled_from("uvwxyz"), st.sampled_from("abcde"), st.integers(0, 5)), min_size=1)


@settings(max_examples=15, deadline=None)
@given(event_lists, st.integers(1, 3))
def test_the_preparation_equals_the_slow_one(events: list[Event], min_count: int):
    expected = slow_preparation(events, min_count)
    if not expected:
        with pytest.raises(UserError, match="No interaction is left"):
            build(events, min_count)
        return
    catalog = build(events, min_count)
    assert as_lists(catalog) == expected
    assert catalog.users["user"].to_pylist() == list(expected)
    walked = dict.fromkeys(item for sequence in expected.values() for item, _ in sequence)
    assert catalog.items["item"].to_pylist() == list(walked)


def test_one_removal_leads_to_the_next_until_nothing_changes():
    # v falls first (1 event), so b falls (1 event left), so w falls; u with a, a stays.
    events = [("u", "a", 1), ("u", "a", 2), ("v", "b", 1), ("w", "b", 2), ("w", "a", 3)]
    assert as_lists(build(events, 2)) == {"u": [("a", 1), ("a", 2)]}


def test_items_keep_their_description_and_unknown_ones_stay_with_nulls():
    known = {"item": "a", "title": "Tea &amp; Co", "price": 2.5, "categories": ["Food", "Tea"], "category": "Tea"}
    catalog = build([("u", "b", 1), ("u", "a", 2)], 1, [known, {"item": "unused", "title": "x"}])
    b, a = catalog.items.to_pylist()
    assert catalog.items.schema == ITEM_SCHEMA
    assert a == known | {"brand": None, "text": None, "candidate": None}
    assert b == {"item": "b", "categories": [], "category": "UNKNOWN"} | dict.fromkeys(
        ("title", "brand", "price", "text", "candidate")
    )


def test_types_and_figures():
    catalog = build([("u", "a", 1), ("u", "b", 5), ("u", "a", 3), ("v", "a", 2)], 1)
    assert (catalog.offsets_U1.dtype, catalog.item_M.dtype, catalog.time_M.dtype) == (np.int64, np.int32, np.int64)
    assert catalog.figures() == {
        "users": 2,
        "items": 2,
        "interactions": 4,
        "mean_length": 2.0,
        "median_length": 2.0,
        "density": 1.0,
        "first_time": 1,
        "last_time": 5,
    }


def test_a_saved_catalogue_is_mapped_back_without_a_copy(tmp_path: Path):
    catalog = build([(f"u{n % 1500}", f"i{n % 7}", n) for n in range(3000)], 1)
    catalog.save(tmp_path)
    loaded = Catalog.load(tmp_path)
    assert as_lists(loaded) == as_lists(catalog)
    assert loaded.items.equals(catalog.items)
    assert loaded.offsets_U1.dtype == np.int64
    assert not loaded.item_M.flags.owndata and not loaded.item_M.flags.writeable

    import datasets
    import pyarrow.parquet as pq

    rows = datasets.load_from_disk(tmp_path / "sequences")
    assert len(rows) == 1500 and rows[0] == {"items": catalog.item_M[:2].tolist(), "times": [0, 1500]}
    log = pq.read_table(tmp_path / "interactions.parquet")
    assert log.schema.types == [pa.int32(), pa.int32(), pa.int64()] and log.num_rows == 3000


@pytest.mark.parametrize(
    ("candidate", "expected"),
    [([None, None, None], None), ([True, None, True], None), ([True, False, None], [0, 2]), ([False] * 3, [])],
)
def test_items_that_are_not_to_be_recommended_stay_so_when_saved(
    tmp_path: Path, candidate: list[bool | None], expected: list[int] | None
):
    catalog = build([("u", "a", 1), ("u", "b", 5), ("u", "c", 3)], 1)
    place = ITEM_SCHEMA.get_field_index("candidate")
    items = catalog.items.set_column(place, "candidate", pa.array(candidate, pa.bool_()))
    replace(catalog, items=items).save(tmp_path)
    found = Catalog.load(tmp_path).candidates
    assert (found if found is None else found.tolist()) == expected


def test_a_catalogue_saved_without_the_newer_columns_still_loads(tmp_path: Path):
    import pyarrow.parquet as pq

    catalog = build([("u", "a", 1), ("u", "b", 5)], 1)
    catalog.save(tmp_path)
    for name, newer in (("items", ["candidate"]), ("users", ["part", "targets"])):
        table = pq.read_table(tmp_path / f"{name}.parquet").drop_columns(newer)
        pq.write_table(table, tmp_path / f"{name}.parquet")
    loaded = Catalog.load(tmp_path)
    assert loaded.candidates is None and loaded.items.equals(catalog.items) and loaded.users.equals(catalog.users)


def test_a_log_of_plain_arrays_is_mapped_and_has_no_times(tmp_path: Path):
    catalog = build([("u", "a", 1), ("u", "b", 5), ("v", "a", 3)], 1)
    catalog.save(tmp_path)
    shutil.rmtree(tmp_path / "sequences")
    np.save(tmp_path / "item.npy", catalog.item_M)
    np.save(tmp_path / "offsets.npy", catalog.offsets_U1)
    loaded = Catalog.load(tmp_path)
    assert loaded.item_M.tolist() == catalog.item_M.tolist() and loaded.offsets_U1.tolist() == [0, 2, 3]
    assert type(loaded.item_M) is np.ndarray and not loaded.item_M.flags.owndata and not loaded.item_M.flags.writeable
    assert loaded.time_M.tolist() == [0, 0, 0] and loaded.time_M.strides == (0,)
    whole = (tmp_path / "item.npy").read_bytes()
    for content in (b"", whole[:50], whole[:-4]):
        (tmp_path / "item.npy").write_bytes(content)
        with pytest.raises(UserError, match="no readable catalogue .*Prepare the data again"):
            Catalog.load(tmp_path)
    np.save(tmp_path / "item.npy", catalog.item_M[:2])
    with pytest.raises(UserError, match="2 sequences for 2 users, 2 events of 3. Prepare the data again"):
        Catalog.load(tmp_path)


def test_to_write_is_to_build_and_to_save(tmp_path: Path):
    config = SyntheticConfig(num_users=20, num_items=100)
    figures = config.write(tmp_path)
    loaded, built = Catalog.load(tmp_path), config.build()
    assert figures == built.figures() and (loaded.item_M == built.item_M).all() and loaded.items.equals(built.items)


@pytest.mark.parametrize("name", ["items.parquet", "users.parquet", "sequences/data-00000-of-00001.arrow"])
def test_a_damaged_catalogue_is_an_error_that_says_what_to_do(tmp_path: Path, name: str):
    build([("u", "a", 1)], 1).save(tmp_path)
    (tmp_path / name).write_bytes(b"\0" * 40)
    with pytest.raises(UserError, match="Prepare the data again"):
        Catalog.load(tmp_path)


def test_loading_needs_neither_daft_nor_datasets():
    program = "import sys, datamodules.catalog, datamodules.amazon, datamodules.table, datamodules.synthetic; "
    program += "sys.exit(len({'daft', 'datasets', 'torch', 'pandas'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", program]).returncode == 0


def test_raw_files_lie_in_the_setting_else_the_environment_else_data(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("DATA_DIR", "/somewhere")
    assert data_folder("here") == Path("here") and data_folder("") == Path("/somewhere")
    assert data_folder("~nosuchuser/x") == Path("~nosuchuser/x")
    monkeypatch.delenv("DATA_DIR")
    assert data_folder("") == Path("data")
