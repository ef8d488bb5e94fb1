"""The preparation against a slow twin in plain Python, and on the official previews.

Legend: U users, M events, N items, E examples, D numbers of a vector."""

import io
import random
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from datamodules.catalog import Catalog
from datamodules.embed import EmbedConfig
from datamodules.split import SplitConfig
from datamodules.taobao_mm import TaobaoMMConfig
from datamodules.taobao_tables import VECTORS
from datamodules.taobao_write import NpyWriter
from sid.errors import UserError
from tests.datamodules.toy_taobao_mm import CLICK, SKIP, SMALL, Tables, feature, sample, user, vector, write


def events(catalog: Catalog) -> list[tuple[str, str, list[str], int]]:
    """(user, part, raw ids of the events, how many of them are targets) of every user."""
    raw_N = catalog.items["item"].to_pylist()
    users = zip(catalog.users.to_pylist(), catalog.offsets_U1[:-1], catalog.offsets_U1[1:], strict=True)
    return [
        (row["user"], row["part"], [raw_N[i] for i in catalog.item_M[first:last]], row["targets"])
        for row, first, last in users
    ]


def described(catalog: Catalog) -> dict[str, tuple[str, list[str], bool | None]]:
    """raw id -> category, path, candidate; in the order of the items."""
    return {r["item"]: (r["category"], r["categories"], r["candidate"]) for r in catalog.items.to_pylist()}


def slow(tables: Tables, targets: str, least: int) -> tuple[list, dict] | None:
    """What `events` and `described` are to be, row by row; None where no item or no user of a part is left."""
    clicked = {
        part: [(r["129_1"], r["205"]) for r in tables[f"{part}_samples"] if r["label_0"] == CLICK and r["205"]]
        for part in ("train", "test")
    }
    with_vector = {row["205"] for row in tables[VECTORS]} - {0}
    counts = Counter(item for _, item in clicked["train"])
    asked = {item for _, item in clicked["test"]}
    wanted = sorted(i for i in counts if counts[i] >= least and i in asked and i in with_vector)
    if targets == "newest":
        wanted, with_vector = (
            [],
            {i for p in clicked for r in tables[f"{p}_user_features"] for i in r["150_2_180"]} - {0},
        )
    users, category = [], dict.fromkeys(wanted, 0)
    for part, samples in clicked.items():
        for row in tables[f"{part}_user_features"]:
            answers = [item for who, item in samples if who == row["129_1"] and item in wanted]
            pairs = zip(row["150_2_180"], row["151_2_180"], strict=True)
            history = [(item, beside) for item, beside in pairs if item in with_vector]
            if (len(history) < 2) if targets == "newest" else not (history and answers):
                continue
            for item, beside in history:
                category.setdefault(item, beside)
            items = [str(item) for item, _ in history] + [str(item) for item in answers]
            users.append((f"{part}:{row['129_1']}", part, items, len(answers) or 1))
    if {part for _, part, _, _ in users} != {"train", "test"}:
        return None
    category |= {r["205"]: r["206"] for r in tables["item_features"] if r["205"] in category and r["206"]}
    candidate = {item: item in wanted if wanted else None for item in category}
    return users, {
        str(i): (str(c), [str(c)], candidate[i]) if c else ("UNKNOWN", [], candidate[i]) for i, c in category.items()
    }


ITEMS, USERS = st.integers(-4, 5), st.integers(1, 5)
histories = st.lists(st.tuples(ITEMS, st.integers(0, 3)), max_size=7)


@st.composite
def all_tables(draw: st.DrawFn) -> Tables:
    made: Tables = {}
    for part in ("train", "test"):
        rows = draw(st.lists(st.tuples(USERS, ITEMS, st.sampled_from([CLICK, CLICK, SKIP])), min_size=3, max_size=14))
        made[f"{part}_samples"] = [sample(*row) for row in rows]
        people = draw(st.lists(USERS, unique=True, min_size=2))
        made[f"{part}_user_features"] = [
            user(raw, [i for i, _ in seen], [c for _, c in seen])
            for raw, seen in ((p, draw(histories)) for p in people)
        ]
    made["item_features"] = [feature(i, draw(st.integers(0, 3))) for i in draw(st.lists(ITEMS, unique=True))]
    made[VECTORS] = [vector(i) for i in draw(st.lists(ITEMS, unique=True, min_size=6))]
    return made


@settings(max_examples=60)
@given(all_tables(), st.sampled_from(["clicks", "newest"]), st.integers(1, 2), st.randoms(use_true_random=False))
def test_the_preparation_equals_the_slow_one_however_the_tables_are_cut(
    tmp_path_factory: pytest.TempPathFactory, tables: Tables, targets: str, least: int, rng: random.Random
) -> None:
    def cut(rows: int) -> list[int]:
        return sorted(rng.sample(range(rows + 1), min(rows, 2)))

    data_dir = write(tmp_path_factory.mktemp("sharded"), tables, cut)
    config = TaobaoMMConfig(targets, min_train_clicks=least, data_dir=data_dir)
    expected = slow(tables, targets, least)
    if expected is None:
        with pytest.raises(
            UserError, match=r"TAOBAO-MM: no (item can be a target|user of the (train|test) part is left)"
        ):
            config.build()
        return
    catalog = config.build()
    users, items = expected
    assert events(catalog) == users
    assert list(described(catalog).items()) == list(items.items())
    assert (catalog.item_M.dtype, catalog.offsets_U1.dtype, catalog.time_M.strides) == (np.int32, np.int64, (0,))


def test_a_small_example_in_words(tmp_path: Path) -> None:
    # Item 9 has no vector; user 8 clicked nothing; user 3 clicked nothing; person 1 is in both parts.
    config = TaobaoMMConfig(min_train_clicks=1, data_dir=write(tmp_path, SMALL))
    (tmp_path / "prepared").mkdir()
    figures = config.write(tmp_path / "prepared")
    catalog = Catalog.load(tmp_path / "prepared")
    assert events(catalog) == [
        ("train:2", "train", ["7", "3"], 1),
        ("train:1", "train", ["4", "7", "3", "-5", "3"], 2),
        ("test:1", "test", ["4", "7", "3", "-5", "6", "3", "-5"], 2),
    ]
    assert described(catalog) == {
        "-5": ("UNKNOWN", [], True),  # a missing category in item_features
        "3": ("33", ["33"], True),
        "7": ("70", ["70"], False),
        "4": ("40", ["40"], False),
        "6": ("60", ["60"], False),
    }
    assert catalog.candidates.tolist() == [0, 1]
    assert figures == catalog.figures() | {"candidates": 2, "samples": 5, "test_samples": 2}
    assert (figures["users"], figures["items"], figures["interactions"]) == (3, 5, 14)


def test_vectors_follow_the_items_and_become_floats(tmp_path: Path) -> None:
    (tmp_path / "prepared").mkdir()
    TaobaoMMConfig(min_train_clicks=1, data_dir=write(tmp_path, SMALL)).write(tmp_path / "prepared")
    items = Catalog.load(tmp_path / "prepared").items
    vectors_ND = EmbedConfig(encoder="given").build(items, tmp_path / "prepared")
    assert vectors_ND.dtype == np.float32 and vectors_ND.shape == (5, 128)
    assert vectors_ND[:, 0] * 127 == pytest.approx([int(raw) for raw in items["item"].to_pylist()])
    assert (vectors_ND[:, 127] == -1).all()
    with pytest.raises(UserError, match="4 items. A .npy goes by position|has 5 rows, the catalogue has 4 items"):
        EmbedConfig(encoder="given").build(items.slice(1), tmp_path / "prepared")


@given(st.lists(st.lists(st.integers(-(2**31), 2**31 - 1))))
def test_a_growing_file_holds_what_was_appended(
    tmp_path_factory: pytest.TempPathFactory, parts: list[list[int]]
) -> None:
    path = tmp_path_factory.mktemp("npy") / "numbers.npy"
    with NpyWriter(path, np.int32) as file:
        for part in parts:
            file.append(np.array(part))
    found = np.load(path, mmap_mode="r" if sum(map(len, parts)) else None)
    assert found.dtype == np.int32 and found.tolist() == [number for part in parts for number in part]
    file.length, file._file = 10**12, io.BytesIO()
    file._write_header()
    assert file._file.tell() == path.stat().st_size - found.nbytes  # as long for any number


def test_target_items_are_drawn_by_seed_and_only_they_are_asked_for(tmp_path: Path) -> None:
    people, pool = range(1, 41), range(1, 21)
    clicks = [sample(who, item) for who in people for item in pool if (who + item) % 3]
    rows = [user(who, [item for item in pool if item % 4 == who % 4]) for who in people]
    tables = {
        f"{part}_{name}": value
        for part in ("train", "test")
        for name, value in (("samples", clicks), ("user_features", rows))
    }
    data_dir = write(tmp_path, tables | {"item_features": [], VECTORS: [vector(item) for item in pool]})

    def chosen(**settings: int) -> set[str]:
        catalog = TaobaoMMConfig(data_dir=data_dir, **settings).build()
        candidates = {raw for raw, row in described(catalog).items() if row[2]}
        assert {item for *_, items, n in events(catalog) for item in items[-n:]} == candidates
        return candidates

    first = chosen(num_targets=7)
    assert len(first) == 7 and first == chosen(num_targets=7)
    assert any(first != chosen(num_targets=7, seed=seed) for seed in range(3))
    assert chosen(num_targets=20) == {str(item) for item in pool}


def test_parts_of_a_person_are_apart_and_no_target_is_in_the_history_it_is_asked_from(tmp_path: Path) -> None:
    # Each person is in both parts; the test history goes on where the training history ends.
    people = range(1, 31)
    tables = {
        "train_samples": [sample(who, 100 + who % 3) for who in people],
        "test_samples": [sample(who, 100 + who % 3) for who in people] + [sample(who, 101) for who in people],
        "train_user_features": [user(who, [who]) for who in people],
        "test_user_features": [user(who, [who, 50 + who]) for who in people],
        "item_features": [],
        VECTORS: [vector(item) for item in range(1, 103)],
    }
    catalog = TaobaoMMConfig(data_dir=write(tmp_path, tables)).build()
    split = SplitConfig("given", validation_share=0.2).build(catalog)
    raw_N, name_U = catalog.items["item"].to_pylist(), catalog.users["user"].to_pylist()
    parts = {name: {name_U[u] for u in examples.user_E} for name, examples in split._asdict().items()}
    assert [len(parts[name]) for name in ("train", "validation", "test")] == [24, 6, 30]
    assert not parts["train"] & parts["validation"]
    for name, examples in split._asdict().items():
        for number, target, end in zip(*examples, strict=True):
            history = [int(raw_N[i]) for i in catalog.item_M[catalog.offsets_U1[number] : end]]
            who = int(name_U[number].split(":")[1])
            assert history == ([who, 50 + who] if name == "test" else [who])
            assert end <= target < catalog.offsets_U1[number + 1] and int(raw_N[catalog.item_M[target]]) >= 100


def test_the_official_previews_with_the_newest_item_as_target(data_dir: Path) -> None:
    catalog = TaobaoMMConfig("newest", data_dir=str(data_dir)).build()
    assert catalog.figures() | {"mean_length": 0, "density": 0} == {
        "users": 20,
        "items": 11_180,
        "interactions": 19_351,
        "mean_length": 0,
        "median_length": 1000,
        "density": 0,
        "first_time": 0,
        "last_time": 0,
    }
    assert catalog.candidates is None and "UNKNOWN" not in set(catalog.items["category"].to_pylist())
    assert [len(examples.user_E) for examples in SplitConfig("given").build(catalog)] == [9, 1, 10]
    row = pq.read_table(data_dir / "taobao_mm" / "test_user_features.parquet").slice(5, 1).to_pylist()[0]
    history = [str(item) for item in row["150_2_180"]]
    assert events(catalog)[15] == (f"test:{row['129_1']}", "test", history, 1) and len(history) == 351
