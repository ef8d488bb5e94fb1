"""Answers to a file of users, and on the command line."""

from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from filelock import FileLock

from experiments.deploy import recommender
from experiments.recommend import main as recommend
from serving import table as tables
from serving.bundle import Bundle
from serving.recommender import Question, Recommender
from sid.errors import UserError
from tests.serving.trained import asked


def test_a_table_of_users_goes_on_where_it_was_killed(
    runs: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ready = recommender(runs["causal_tiny"])
    raw_ids = ready.bundle.items["item"].to_pylist()
    histories = [[raw_ids[item] for item in row] for row in asked(ready)[0][:9]]
    histories[3], histories[5] = [], ["nobody knows this", *histories[5]]
    given, out = tmp_path / "users.parquet", tmp_path / "out.parquet"
    pq.write_table(pa.table({"user": [f"u{row}" for row in range(9)], "history": histories}), given)
    calls = 0

    def fails(*arguments: object) -> pa.Table:
        nonlocal calls
        calls += 1
        if calls == 3:
            raise KeyboardInterrupt
        return answered(*arguments)  # type: ignore[arg-type]

    answered = tables._answer
    monkeypatch.setattr(tables, "_answer", fails)
    with pytest.raises(KeyboardInterrupt):
        tables.recommend_table(ready, given, out, Question(k=4), part_users=2)
    assert not out.exists()
    done = tables.recommend_table(ready, given, out, Question(k=4), part_users=2)
    assert calls == 3 + 3 and done == (8, 1)
    assert [path.name for path in tmp_path.iterdir() if "out" in path.name] == ["out.parquet"]
    rows = pq.read_table(out).to_pylist()
    assert [row["user"] for row in rows] == [f"u{row}" for row in range(9)]
    for row, history in zip(rows, histories, strict=True):
        numbers, _ = ready.numbers(history)
        alone = ready.answer([numbers], Question(k=4)).lists.items_BK[0].tolist() if numbers else []
        assert row["items"] == [raw_ids[item] for item in alone] and len(row["scores"]) == len(row["items"])


def test_parts_outlive_other_questions_and_one_that_is_damaged_is_answered_again(
    runs: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ready, answered = recommender(runs["itemknn_tiny"]), tables._answer
    raw_ids = ready.bundle.items["item"].to_pylist()
    given, out = tmp_path / "users.parquet", tmp_path / "out.parquet"
    pq.write_table(pa.table({"user": ["a", "b", "c"], "history": [[raw_ids[item]] for item in range(3)]}), given)
    asked: list[int] = []

    def noted(ready: Recommender, rows: pa.Table, question: Question) -> pa.Table:
        if len(asked) == 2:
            raise KeyboardInterrupt
        asked.append(question.k)
        return answered(ready, rows, question)

    monkeypatch.setattr(tables, "_answer", noted)
    with pytest.raises(KeyboardInterrupt):
        tables.recommend_table(ready, given, out, Question(k=4), part_users=1)
    with pytest.raises(UserError, match="k=5000"):
        tables.recommend_table(ready, given, out, Question(k=5000), part_users=1)
    with pytest.raises(KeyboardInterrupt):
        tables.recommend_table(ready, given, out, Question(k=5), part_users=1)
    first = min(tmp_path.rglob("00000?.parquet"))
    first.write_bytes(first.read_bytes()[:200])
    asked.clear()
    monkeypatch.setattr(tables, "_answer", lambda *of: (asked.append(of[2].k), answered(*of))[1])
    tables.recommend_table(ready, given, out, Question(k=4), part_users=1)
    assert asked == [4, 4], "the damaged one and the third, not the second"
    assert pq.read_table(out)["user"].to_pylist() == ["a", "b", "c"]
    assert [path.name for path in tmp_path.iterdir() if "out" in path.name] == ["out.parquet"]


@pytest.mark.parametrize(
    ("kind", "fits"),
    [
        (pa.list_(pa.string()), True),
        (pa.large_list(pa.large_string()), True),
        (pa.list_(pa.string(), 1), True),
        (pa.list_(pa.dictionary(pa.int32(), pa.string())), True),
        (pa.list_(pa.int64()), True),
        (pa.list_(pa.null()), True),
        (pa.list_(pa.float64()), False),
        (pa.list_(pa.binary()), False),
        (pa.list_(pa.struct({"item": pa.string()})), False),
        (pa.string(), False),
    ],
)
def test_histories_are_lists_of_ids(kind: pa.DataType, fits: bool, tmp_path: Path) -> None:
    empty = pa.schema({"user": pa.string(), "history": kind}).empty_table()
    pq.write_table(empty, tmp_path / "given.parquet")
    if fits:
        assert tables.open_histories(tmp_path / "given.parquet").schema_arrow.field("history").type == kind
    else:
        with pytest.raises(UserError, match="expected a list of item ids, as text or whole numbers"):
            tables.open_histories(tmp_path / "given.parquet")


def test_two_columns_of_one_name_are_refused(tmp_path: Path) -> None:
    twice = pa.table([["a"], ["b"], [["c"]]], names=["user", "user", "history"])
    pq.write_table(twice, tmp_path / "given.parquet")
    with pytest.raises(UserError, match="has columns user, user, history; it needs one user and one history"):
        tables.open_histories(tmp_path / "given.parquet")


def test_words_between_colons_are_shown_as_they_are(
    bundles: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = Bundle.load(bundles["itemknn_tiny"])
    named = [f"sku:key:{number}" for number in range(bundle.items.num_rows)]
    replace(bundle, items=bundle.items.set_column(0, "item", pa.array(named))).save(tmp_path / "keys")
    assert recommend([str(tmp_path / "keys"), "--history", "sku:key:3, no:key:0", "--k", "2"]) == 0
    said = capsys.readouterr().out
    assert "no:key:0" in said and "sku:key:3" in said


def test_the_command_line(runs: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = str(runs["sasrec_tiny"])
    raw_ids = recommender(runs["sasrec_tiny"]).bundle.items["item"].to_pylist()
    assert recommend([folder, "--history", f"{raw_ids[3]}, {raw_ids[5]},[/nothing]", "--k", "4"]) == 0
    shown = capsys.readouterr().out
    assert "left out: [/nothing]" in shown and raw_ids[3] in shown
    for arguments, said in (
        ([folder], "give --history or --users"),
        ([folder, "--history", "nothing"], "none of these ids"),
        ([folder, "--history", raw_ids[0], "--k", "x"], "invalid int"),
        ([folder, "--users", "a.parquet"], "belong together"),
        ([folder, "--users", str(tmp_path / "no.parquet"), "--out", str(tmp_path / "o")], "no readable Parquet"),
        ([str(tmp_path), "--history", raw_ids[0]], "is no run"),
        ([folder, "--history", raw_ids[0], "--beams", "20"], "no beams"),
        ([folder, "--history", raw_ids[0], "--device", "tpu"], "device=tpu"),
        ([folder, "--users", "a.parquet", "--out", "a.parquet"], "is the file of the histories"),
        ([folder, "--users", "a.parquet", "--out", str(tmp_path)], "expected a file"),
    ):
        assert recommend(arguments) == 2
        assert said in capsys.readouterr().err
    given = tmp_path / "wrong.parquet"
    with FileLock(tmp_path / ".out.lock"):
        pq.write_table(pa.table({"user": ["a"], "history": [["b"]]}), given)
        assert recommend([folder, "--users", str(given), "--out", str(tmp_path / "out")]) == 2
        assert "another process is writing" in capsys.readouterr().err
    for columns, said in (
        ({"user": ["a"]}, "it needs one user and one history"),
        ({"user": ["a"], "history": ["b"]}, "list"),
    ):
        pq.write_table(pa.table(columns), given)
        assert recommend([folder, "--users", str(given), "--out", str(tmp_path / "out")]) == 2
        assert said in capsys.readouterr().err
