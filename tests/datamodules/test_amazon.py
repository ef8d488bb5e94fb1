import gzip
import json
import os
from pathlib import Path

import numpy as np
import pytest

from datamodules import amazon, download
from datamodules.amazon import AmazonConfig
from datamodules.split import SplitConfig
from sid.errors import UserError

REVIEWS = [
    {
        "reviewerID": "late",
        "asin": "tea",
        "overall": 5.0,
        "unixReviewTime": 30,
        "reviewText": "good",
        "helpful": [0, 1],
    },
    {"reviewerID": "late", "asin": "cup", "overall": 1.0, "unixReviewTime": 10, "summary": "meh"},
    {"reviewerID": "early", "asin": "cup", "overall": 3.0, "unixReviewTime": 20},
    {"reviewerID": "early", "asin": "tea", "overall": 3.0, "unixReviewTime": 20},
    {"reviewerID": "early", "asin": "jar", "overall": 0.0, "unixReviewTime": 25},
]
META = [
    {"asin": "tea", "title": "Tea &amp; more", "price": 3, "categories": [["Home", "Food", "Tea"], ["Other"]]},
    {"asin": "unsold", "title": "Nobody has it", "categories": [["Home"]]},
]


def packed(text: bytes) -> bytes:
    """As a .gz without a time: the ids of tests must be the same in every process that collects them."""
    return gzip.compress(text, mtime=0)


def write(folder: Path, reviews: list | bytes = REVIEWS, meta: list | bytes = META) -> AmazonConfig:
    if isinstance(reviews, list):
        reviews = packed("".join(json.dumps(review) + "\n" for review in reviews).encode())
    if isinstance(meta, list):
        meta = packed("".join(f"{entry!r}\n" for entry in meta).encode())
    (folder / "amazon_2014").mkdir()
    (folder / "amazon_2014" / "reviews_Beauty_5.json.gz").write_bytes(reviews)
    (folder / "amazon_2014" / "meta_Beauty.json.gz").write_bytes(meta)
    return AmazonConfig(data_dir=str(folder), min_count=1)


def test_users_follow_the_file_and_items_follow_the_users(tmp_path: Path):
    catalog = write(tmp_path).build()
    assert catalog.users["user"].to_pylist() == ["late", "early"]
    assert catalog.items["item"].to_pylist() == ["cup", "tea"]  # by time, "late" had the cup first
    assert catalog.item_M.tolist() == [0, 1, 0, 1]  # equal times keep the order of the file
    assert catalog.time_M.tolist() == [10, 30, 20, 20]


def test_meta_gives_the_first_path_and_leaves_entities_and_the_unknown_alone(tmp_path: Path):
    cup, tea = write(tmp_path).build().items.to_pylist()
    assert tea["title"] == "Tea &amp; more" and tea["price"] == 3.0 and tea["brand"] is None
    assert tea["categories"] == ["Home", "Food", "Tea"] and tea["category"] == "Food"
    assert cup["title"] is None and cup["categories"] == [] and cup["category"] == "UNKNOWN"


GOOD = packed("".join(json.dumps(review) + "\n" for review in REVIEWS).encode())


@pytest.mark.parametrize(
    ("reviews", "meta", "message"),
    [
        (GOOD[: len(GOOD) // 2], META, r"reviews_Beauty_5.json.gz is damaged after line 0 .*Delete the file"),
        (GOOD[:-4], META, r"reviews_Beauty_5.json.gz is damaged after line 5"),
        (b"plain text", META, r"reviews_Beauty_5.json.gz is damaged .*[Nn]ot a gzip"),
        (packed(b""), META, r"reviews_Beauty_5.json.gz: Empty JSON file"),
        (packed(b'{"reviewerID": \n'), META, r"reviews_Beauty_5.json.gz, line 1: expected one JSON object"),
        ([*REVIEWS, {"reviewerID": "u"}], META, r"reviews_Beauty_5.json.gz, line 6: expected asin \(str\)"),
        ([*REVIEWS, REVIEWS[0] | {"reviewerID": None}], META, r"line 6: expected reviewerID \(str\)"),
        ([REVIEWS[0] | {"unixReviewTime": "today"}], META, r"line 1: expected unixReviewTime \(int\)"),
        (REVIEWS, packed(repr(META[0]).encode())[:-9], r"meta_Beauty.json.gz is damaged after line"),
        (REVIEWS, packed(b"{'asin': 'a'}\n{'asin': open('x')}\n"), r"meta_Beauty.json.gz, line 2: .*literal"),
        (REVIEWS, packed(b"{'asin': 'a'}\n\n{'asin': \n"), r"meta_Beauty.json.gz, line 3: .*literal"),
        (REVIEWS, packed(b"{'asin': '\xff'}\n"), r"line 1: expected a Python dict literal"),
        (REVIEWS, [{"title": "no asin"}], r"meta_Beauty.json.gz, line 1: expected a dict with a string asin"),
        (REVIEWS, [{"asin": "tea", "price": "3 pounds"}], r"line 1: price must be a number"),
        (REVIEWS, [{"asin": "tea", "price": 10**400}], r"line 1: a value that cannot be stored"),
        (REVIEWS, [{"asin": "tea", "title": "\ud83d"}], r"line 1: a value that cannot be stored"),
        (REVIEWS, packed(b""), r"meta_Beauty.json.gz describes none of the 3 reviewed items"),
        (packed(json.dumps(REVIEWS[0]).encode().replace(b"late", b"\xff")), META, "line 1: .*utf-8"),
        (REVIEWS, [{"asin": "tea", "categories": ["Home"]}], r"line 1: categories must be a list of paths"),
    ],
)
def test_bad_input_is_named_by_file_and_line(tmp_path: Path, reviews: list | bytes, meta: list | bytes, message: str):
    with pytest.raises(UserError, match=message):
        write(tmp_path, reviews, meta).build()


def test_nothing_left_after_the_core_is_an_error(tmp_path: Path):
    config = write(tmp_path)
    config.min_count = 3
    with pytest.raises(UserError, match="No interaction is left of 4: .* at least 3"):
        config.build()


def test_a_wrong_name_lists_the_right_ones(tmp_path: Path):
    with pytest.raises(UserError, match="'Toys'; choose one of Beauty, Sports_and_Outdoors, Toys_and_Games, .* Video"):
        AmazonConfig("Toys", str(tmp_path)).raw_files()


def test_a_category_without_counts_in_papers_is_prepared_like_the_others(tmp_path: Path):
    write(tmp_path)
    for file in (tmp_path / "amazon_2014").iterdir():
        file.rename(file.with_name(file.name.replace("Beauty", "Video_Games")))
    config = AmazonConfig("Video_Games", str(tmp_path), min_count=1)
    assert config.build().items["item"].to_pylist() == ["cup", "tea"]
    assert config.official == {} and AmazonConfig().official["users"] == 22_363


def test_offline_names_both_files_the_folder_and_the_address(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(amazon, "ADDRESS", "http://127.0.0.1:9/files/")
    with pytest.raises(UserError) as error:
        AmazonConfig("Toys_and_Games", str(tmp_path)).raw_files()
    for part in ("reviews_Toys_and_Games_5.json.gz", "meta_Toys_and_Games.json.gz", "amazon_2014", str(tmp_path)):
        assert part in str(error.value)
    assert "http://127.0.0.1:9/files/" in str(error.value)
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and path.suffix != ".lock"]


def test_files_that_are_there_are_not_downloaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(download, "_stream", None)
    assert [path.name for path in write(tmp_path).raw_files()] == ["reviews_Beauty_5.json.gz", "meta_Beauty.json.gz"]


@pytest.mark.parametrize(
    ("name", "users", "items", "interactions", "mean", "median"),
    [("Beauty", 22_363, 12_101, 198_502, 8.88, 6), ("Sports_and_Outdoors", 35_598, 18_357, 296_337, 8.32, 6)],
)
def test_the_published_figures(name: str, users: int, items: int, interactions: int, mean: float, median: int):
    reviews = Path(os.environ.get("DATA_DIR", "data")) / "amazon_2014" / f"reviews_{name}_5.json.gz"
    if not reviews.exists():
        pytest.skip(f"{reviews} is not here")
    catalog = AmazonConfig(name).build()
    figures = catalog.figures()
    assert (figures["users"], figures["items"], figures["interactions"]) == (users, items, interactions)
    assert AmazonConfig(name).official == {"users": users, "items": items, "interactions": interactions}
    assert (round(figures["mean_length"], 2), figures["median_length"]) == (mean, median)
    train, validation, test = SplitConfig().build(catalog)
    assert len(validation.user_E) == len(test.user_E) == users
    assert len(train.user_E) == interactions - 3 * users  # 131,413 for Beauty
    assert np.bincount(catalog.item_M).min() >= 5 and np.diff(catalog.offsets_U1).min() >= 5
