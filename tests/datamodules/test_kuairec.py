import csv
import io
import shutil
import threading
import warnings
import zipfile
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from datamodules import download, kuairec
from datamodules.kuairec import CAPTIONS, MATRIX, KuaiRecConfig, select
from sid.errors import UserError

FOLDER = "KuaiRec 2.0/data"
HEADER = "user_id,video_id,play_duration,video_duration,time,date,timestamp,watch_ratio\n"
CAPTION_HEADER = (
    "video_id,manual_cover_text,caption,topic_tag,first_level_category_id,first_level_category_name,"
    "second_level_category_id,second_level_category_name,third_level_category_id,third_level_category_name\n"
)
VIEWS = [  # user, video, timestamp, watch ratio
    (9, 30, "50.75", 2.0),
    (9, 10, "40.5", 1.5),
    (9, 20, "45", 1.0),  # not above 1
    (9, 10, "46", 3.0),  # in a row once 20 is gone
    (9, 40, "50.75", 7.0),
    (2, 20, "5", 1.25),
    (2, 10, "5", 1.25),
    (2, 20, "5", 1.25),
    (3, 10, "1", 9.0),  # the only one of user 3
]
CAPTION_ROWS = """\
10,UNKNOWN,,[],8,颜值,-124,UNKNOWN,-124,UNKNOWN
20,冷笑话,"他说：""走,
走吧"" ","[搞笑, 我要上热门]",9,喜剧,727,搞笑互动,2434,冷笑话
30,UNKNOWN,豪车！\r ,[汽车],-124,UNKNOWN,-124,UNKNOWN,-124,UNKNOWN
99,UNKNOWN,没人看,[],8,颜值,-124,UNKNOWN,-124,UNKNOWN
"""


def matrix(views: list[tuple]) -> str:
    return HEADER + "".join(f"{u},{v},1,1,2020-07-05,20200705,{time},{ratio}\n" for u, v, time, ratio in views)


def write_zip(folder: Path, files: dict[str, str | bytes]) -> Path:
    path = folder / "kuairec" / "KuaiRec.zip"
    path.parent.mkdir(exist_ok=True)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, text in files.items():
            archive.writestr(f"{FOLDER}/{name}", text)
    return path


def write(
    folder: Path, views: str | bytes = matrix(VIEWS), captions: str | bytes = CAPTION_HEADER + CAPTION_ROWS
) -> KuaiRecConfig:
    write_zip(folder, {"._" + MATRIX: b"\0Mac", MATRIX: views, CAPTIONS: captions})
    return KuaiRecConfig(data_dir=str(folder), min_events=2)


def sequences(config: KuaiRecConfig) -> dict[str, list[tuple[str, int]]]:
    catalog = config.build()
    items, users = catalog.items["item"].to_pylist(), catalog.users["user"].to_pylist()
    names = [items[item] for item in catalog.item_M]
    events = list(zip(names, catalog.time_M.tolist(), strict=True))
    bounds = catalog.offsets_U1.tolist()
    return {user: events[start:end] for user, start, end in zip(users, bounds[:-1], bounds[1:], strict=True)}


def test_positives_by_time_with_repeats_merged_and_short_users_dropped(tmp_path: Path):
    assert sequences(write(tmp_path)) == {
        "9": [("10", 40), ("30", 50), ("40", 50)],  # 10 at 46 repeats; equal times keep the order of the file
        "2": [("20", 5), ("10", 5), ("20", 5)],  # back to 20 is no repeat in a row
    }


def test_the_threshold_is_strict_and_the_least_number_counts_what_is_left(tmp_path: Path):
    config = write(tmp_path)
    config.watch_ratio, config.min_events = 1.25, 3
    assert sequences(config) == {"9": [("10", 40), ("30", 50), ("40", 50)]}
    config.watch_ratio, config.min_events = 0.5, 1
    assert sequences(config)["9"] == [("10", 40), ("20", 45), ("10", 46), ("30", 50), ("40", 50)]
    assert sequences(config)["3"] == [("10", 1)]


def test_captions_tags_and_levels_describe_the_items(tmp_path: Path):
    rows = {row["item"]: row for row in write(tmp_path).build().items.to_pylist()}
    assert set(rows) == {"10", "20", "30", "40"}
    assert rows["20"]["title"] == '他说："走, 走吧"' and rows["20"]["text"] == "冷笑话; 搞笑, 我要上热门"
    assert rows["20"]["categories"] == ["喜剧", "搞笑互动", "冷笑话"] and rows["20"]["category"] == "喜剧"
    assert rows["10"]["title"] is None and rows["10"]["text"] is None and rows["10"]["categories"] == ["颜值"]
    assert rows["30"]["title"] == "豪车！" and rows["30"]["text"] == "汽车"
    assert rows["30"]["categories"] == [] and rows["30"]["category"] == "UNKNOWN"
    assert rows["40"]["title"] is None and rows["40"]["category"] == "UNKNOWN"  # watched, but not described


def test_views_without_a_timestamp_are_left_out_and_counted(tmp_path: Path):
    views = [*VIEWS, (9, 50, "", 8.0), (9, 60, "nan", 8.0), (9, 70, "", 0.5)]
    with pytest.warns(UserWarning, match=r"big_matrix.csv: 2 of 10 views above watch_ratio=1.0 have no timestamp"):
        assert sequences(write(tmp_path, matrix(views)))["9"] == [("10", 40), ("30", 50), ("40", 50)]


def test_a_long_file_is_read_in_blocks_with_line_ends_of_windows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(kuairec, "BLOCK_BYTES", 300)
    views = [(n // 40, n % 40, str(n), 2) for n in range(400)]
    config = write(tmp_path, matrix(views).replace("\n", "\r\n"), (CAPTION_HEADER + CAPTION_ROWS).replace("\n", "\r\n"))
    assert sequences(config) == {str(u): [(str(v), 40 * u + v) for v in range(40)] for u in range(10)}


def slow_select(rows: list[tuple[int, int, float]], min_events: int) -> list[int]:
    kept = []
    for user in sorted({user for user, _, _ in rows}):
        mine: list[int] = []
        for row in sorted((row for row in range(len(rows)) if rows[row][0] == user), key=lambda row: rows[row][2]):
            if not mine or rows[mine[-1]][1] != rows[row][1]:
                mine.append(row)
        kept += mine if len(mine) >= min_events else []
    return kept


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 2), st.integers(0, 6).map(lambda n: n / 4))), st.data())
def test_selection_equals_a_loop_over_the_rows(rows: list[tuple[int, int, float]], data: st.DataObject):
    min_events = data.draw(st.integers(1, 4))
    user_M, video_M, time_M = np.array(rows).reshape(-1, 3).T
    assert select(user_M, video_M, time_M, min_events).tolist() == slow_select(rows, min_events)


TEXTS = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=12)


@given(st.lists(st.tuples(TEXTS, TEXTS, TEXTS), min_size=1, max_size=5))
def test_any_text_comes_through_a_quoted_csv_with_its_white_space_folded(rows: list[tuple[str, str, str]]):
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n", quoting=csv.QUOTE_ALL)
    writer.writerow(kuairec.CAPTION_COLUMNS)
    for number, (cover, caption, level) in enumerate(rows):
        writer.writerow([number, cover, caption, "[]", level, "", ""])
    records = kuairec._records("here", io.BytesIO(text.getvalue().encode()), kuairec.CAPTION_COLUMNS)
    for (_, entry), texts in zip(records, rows, strict=True):
        made = kuairec._describe(entry)
        folded = [" ".join(text.split()) for text in texts]
        expected = [None if text in ("", "UNKNOWN", "-124", "[]") else text for text in folded]
        assert [made["text"], made["title"], made["category"]] == expected


def test_the_unpacked_folder_gives_the_same_and_the_zip_goes_first(tmp_path: Path):
    config = write(tmp_path)
    expected, home = sequences(config), tmp_path / "kuairec"
    shutil.unpack_archive(home / "KuaiRec.zip", home)
    assert config.raw_files() == [home / "KuaiRec.zip"]
    (home / "KuaiRec.zip").unlink()
    for data in (home / FOLDER, home / "KuaiRec" / "data", home / "data"):
        if not data.exists():
            data.parent.mkdir(exist_ok=True)
            config.raw_files()[0].parent.rename(data)
        assert config.raw_files() == [data / MATRIX, data / CAPTIONS]
        assert sequences(config) == expected
    (home / "data" / CAPTIONS).unlink()
    with pytest.raises(UserError, match="holds big_matrix.csv but no kuairec_caption_category.csv: add it, from https"):
        config.raw_files()


GOOD, DESCRIBED = matrix(VIEWS), CAPTION_HEADER + CAPTION_ROWS
LINE = "9,10,1,1,2020-07-05,20200705,"


@pytest.mark.parametrize(
    ("views", "captions", "message"),
    [
        (HEADER, CAPTION_HEADER, r"No interaction is left of .*KuaiRec.zip: 0 views .*watch_ratio=1.0"),
        (matrix([(1, 1, "1", 2)]), CAPTION_HEADER, r"1 views are above .* no user has data.min_events=2 of them"),
        ("", CAPTION_HEADER, r"big_matrix.csv, line 1: expected the columns user_id, video_id, .*, found: ''"),
        ("user,video\n1,2\n", CAPTION_HEADER, r"big_matrix.csv, line 1: expected the columns .* found: 'user, video'"),
        (GOOD + LINE + "1,often\n", "", r"line 11: expected watch_ratio \(float\), found: 'often'"),
        (GOOD + LINE + "1,\n", "", r"line 11: expected watch_ratio \(float\), found: ''"),
        (GOOD + LINE + "noon,1\n", "", r"line 11: expected timestamp \(float\), found: 'noon'"),
        (GOOD + LINE.replace("9,10", "2,10") + "1e300,2\n", DESCRIBED, r"a time of 1e\+300 is none that 64 bits hold"),
        (GOOD + ",10,1,1,,,3,2\n", "", r"line 11: expected user_id \(int\), found: ''"),
        (GOOD + "1,1.5,1,1,,,3,2\n", "", r"line 11: expected video_id \(int\), found: '1.5'"),
        (GOOD + "1,2,3\n", "", r"line 11: expected 8 values and not 3, found: '1,2,3'. Repair the line"),
        (GOOD.encode() + LINE.encode() + b"1,\xff\n", "", r"line 11: expected UTF-8, found: .*xff"),
        (GOOD, "", r"kuairec_caption_category.csv, line 1: expected the columns video_id"),
        (GOOD, DESCRIBED + "a,,,,,,,,,\n", r"line 7: expected video_id \(int\), found: 'a'"),
        (GOOD, DESCRIBED + "10,,,,,,,,,\n", r"line 7: expected each video_id once, .*'10'"),
        (GOOD, DESCRIBED + "1,,一,二,[],,,,,,\n", r"line 7: expected 10 values and not 11"),
        (GOOD, CAPTION_HEADER + '5,,"never closed,\n' + CAPTION_ROWS, r"line 2: expected 10 values and not"),
        (GOOD, CAPTION_HEADER + '5,,"' + "长" * 200_000, r"line 2: field larger than field limit"),
        (GOOD, CAPTION_HEADER.encode() + b"1,\xff,,,,,,,,\n", r"line 2: expected UTF-8, found: .*xff"),
    ],
)
def test_bad_input_is_named_by_file_line_and_value(
    tmp_path: Path, views: str | bytes, captions: str | bytes, message: str
):
    with pytest.raises(UserError, match=message):
        write(tmp_path, views, captions).build()


def test_a_zip_that_is_cut_damaged_or_incomplete_is_an_error(tmp_path: Path):
    config = write(tmp_path, matrix([(n, n, "1", 2) for n in range(9999)]))
    path = tmp_path / "kuairec" / "KuaiRec.zip"
    whole = path.read_bytes()
    path.write_bytes(whole[:-100])
    with pytest.raises(UserError, match=r"KuaiRec.zip cannot be read \(File is not a zip file\). Delete it"):
        config.build()
    middle = len(whole) // 2
    path.write_bytes(whole[:middle] + bytes(64) + whole[middle + 64 :])
    with pytest.raises(UserError, match="KuaiRec.zip cannot be read .*Delete it to download it again"):
        config.build()
    write_zip(tmp_path, {MATRIX: matrix(VIEWS)})
    with pytest.raises(UserError, match="holds no kuairec_caption_category.csv. .* add the file from https://zenodo"):
        config.build()


def test_settings_that_keep_nothing_sensible_are_refused(tmp_path: Path):
    with pytest.raises(UserError, match="data.min_events=0: expected at least 1"):
        KuaiRecConfig(min_events=0, data_dir=str(tmp_path)).build()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[str]:
    class Handler(SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

    handler = partial(Handler, directory=tmp_path / "remote" / "kuairec")
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        threading.Thread(target=running.serve_forever, args=(0.01,), daemon=True).start()
        yield f"http://127.0.0.1:{running.server_port}/"
        running.shutdown()


def test_an_absent_zip_is_downloaded_once(server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "remote").mkdir()
    write(tmp_path / "remote")
    monkeypatch.setattr(kuairec, "ADDRESS", server)
    config = KuaiRecConfig(data_dir=str(tmp_path / "here"), min_events=2)
    assert config.raw_files() == [tmp_path / "here" / "kuairec" / "KuaiRec.zip"]
    assert set(sequences(config)) == {"9", "2"}
    monkeypatch.setattr(download, "_stream", None)
    config.raw_files()


def test_offline_names_the_file_the_folder_and_the_address(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(kuairec, "ADDRESS", "http://127.0.0.1:9/files/")
    with pytest.raises(UserError) as error:
        KuaiRecConfig(data_dir=str(tmp_path)).raw_files()
    for part in ("KuaiRec.zip", f"{tmp_path}/kuairec", "KuaiRec 2.0/data", "by hand from http://127.0.0.1:9/files/"):
        assert part in str(error.value)


def test_the_prepare_stage_prints_the_official_counts_beside_ours(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    from experiments.config import RunConfig
    from experiments.pipeline import Pipeline
    from experiments.summary import show

    pipeline = Pipeline(RunConfig("small", write(tmp_path), output_dir=str(tmp_path)), say=lambda line: None)
    pipeline.run("prepare", show)
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in capsys.readouterr().out.splitlines()]
    assert ["users", "2", "7,176"] in rows and ["items", "4", "10,728"] in rows
    assert ["interactions", "6", ""] in rows and ["big_matrix_rows", "", "12,530,806"] in rows
    assert pipeline.figures["prepare"]["official"] == KuaiRecConfig().official


@pytest.mark.parametrize(
    ("min_events", "users", "items", "interactions", "mean", "median", "longest"),
    [
        (1, 7_176, 10_407, 772_983, 107.72, 80, 950),
        (5, 7_152, 10_406, 772_905, 108.07, 81, 950),
        (20, 6_606, 10_360, 765_817, 115.93, 89, 950),
    ],
)
def test_the_real_positives_above_two(
    data_dir: Path, min_events: int, users: int, items: int, interactions: int, mean: float, median: int, longest: int
):
    config = KuaiRecConfig(watch_ratio=2, min_events=min_events, data_dir=str(data_dir))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        catalog = config.build()
    figures = catalog.figures()
    assert (figures["users"], figures["items"], figures["interactions"]) == (users, items, interactions)
    lengths_U = np.diff(catalog.offsets_U1)
    assert (round(lengths_U.mean(), 2), np.median(lengths_U), lengths_U.max()) == (mean, median, longest)
    assert lengths_U.min() >= min_events
    starts = catalog.offsets_U1[1:-1]
    assert (np.delete(np.diff(catalog.item_M), starts - 1) != 0).all()  # nothing twice in a row
    assert (np.delete(np.diff(catalog.time_M), starts - 1) >= 0).all()
    known = set(catalog.items["category"].to_pylist()) - {"UNKNOWN"}
    assert len(known) == 38 and not any("\r" in title for title in catalog.items["title"].to_pylist() if title)


def test_all_real_rows_are_read_and_described(data_dir: Path):
    files = KuaiRecConfig(data_dir=str(data_dir)).raw_files()
    views = kuairec.read_positives(files, 2)
    assert views.num_rows == 822_067 and len(views["user_id"].unique()) == 7_176
    assert len(views["video_id"].unique()) == 10_407
    items = {row["item"]: row for row in kuairec.read_items(files).to_pylist()}
    assert set(items) == {str(video) for video in range(10_728)}
    assert items["1378"]["title"] == "张凯教练：“我希望我们能开启一段王朝 ！”"
    assert sum(row["title"] is None for row in items.values()) == 1_356
    assert sum(not row["categories"] for row in items.values()) == 40
