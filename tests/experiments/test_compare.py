"""Run folders of a few made-up numbers, side by side."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from matplotlib.figure import Figure

from experiments import compare
from experiments.compare import COLUMNS, cautions, label, main, table_rows
from experiments.compare_curves import painters
from experiments.results import by_config, differing, model_name, read_run, settings
from experiments.stages import file_hash
from sid.errors import UserError

HEAD = "epoch,step,seconds,cpu_seconds,train/loss,val/loss,val/recall@10,val/ndcg@10\n"
STAGES = {"prepare": "cafe01", "tokenize": "beef02"}


@pytest.fixture(autouse=True)
def wide(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")


def make(
    folder: Path,
    seed: int = 1,
    form: str = "item",
    recall: float = 0.04,
    minutes: float = 10.0,
    finished: bool = True,
    cpu: bool = True,
    config: dict[str, Any] | None = None,
    stages: dict[str, str] | None = None,
) -> Path:
    """A run of 4 epochs, validated after epochs 2 (the better NDCG) and 4 (the better recall)."""
    folder.mkdir(parents=True)
    config = {
        "name": folder.parent.name,
        "seed": seed,
        "tokenizer": {"seed": 1, "learning_rate": 0.001},
        "model": {"form": form, "dropout": 0.2} if form != "tiger" else {"dropout": 0.1},
        "optimizer": {"learning_rate": 0.003},
        "train": {"max_epochs": 4},
        "output_dir": str(folder),
        **(config or {}),
    }
    (folder / "config.yaml").write_text(json.dumps(config))  # JSON is YAML
    quarter = 60 * minutes / 4
    cells = [",,", f"3.1,{recall},0.03", ",,", f"2.9,{recall + 0.01},0.02"]
    rows = [f"{e},{9 * e},{2 * quarter * e},{quarter * e},3.0,{cells[e - 1]}" for e in (1, 2, 3, 4)]
    text = "\n".join([HEAD.strip(), *rows]) + "\n"
    if not cpu:
        text = "\n".join(",".join(row.split(",")[:3] + row.split(",")[4:]) for row in text.splitlines())
    (folder / "metrics.csv").write_text(text)
    environment = {"commit": "c0ffee" * 6, "device": "cpu", "command": "run toy", "stages": stages or STAGES}
    (folder / "environment.json").write_text(json.dumps(environment))
    if finished:
        cost = {"parameters": 1_250_000, "targets_per_cpu_second": 2345.6, "peak_memory_gib": 1.26}
        kind = {"item": "CausalConfig", "flat": "CausalConfig", "tiger": "TigerConfig"}[form]
        (folder / "train.manifest.json").write_text(json.dumps({"inputs": {"kind": kind}, "figures": cost}))
        metrics = {"recall@5": 0.02, "ndcg@5": 0.01, "recall@10": recall, "ndcg@10": recall / 2}
        (folder / "test.json").write_text(json.dumps({"metrics": metrics, "users_per_second": 165.4}))
        (folder / "evaluate.manifest.json").write_text(json.dumps({"inputs": {}}))
    return folder


def figures(row: compare.Row) -> dict[str, str]:
    return {column.key: cell.value for column, cell in zip(COLUMNS, row.cells, strict=True)}


def rows_of(*folders: Path) -> list[compare.Row]:
    return [row for block in table_rows(by_config([read_run(folder) for folder in folders])) for row in block]


def test_a_row_holds_cost_and_quality_of_the_weights_that_are_kept(tmp_path: Path) -> None:
    (row,) = rows_of(make(tmp_path / "toy" / "aaa"))
    assert (row.title, row.subtitle, row.model, row.settings, row.notes) == ("toy", "aaa", "item", [], [])
    # validation: epoch 2, for its NDCG of .03; epoch 4 has the better recall
    assert figures(row) == {
        "parameters": "1.25M",
        "minutes": "10.0",
        "targets_per_cpu_second": "2,346",
        "peak_memory_gib": "1.3",
        "val/recall@10": "0.0400",
        "val/ndcg@10": "0.0300",
        "test/recall@5": "0.0200",
        "test/ndcg@5": "0.0100",
        "test/recall@10": "0.0400",
        "test/ndcg@10": "0.0200",
        "users_per_second": "165",
    }


def test_a_model_is_called_by_its_kind_and_the_decoder_only_one_by_its_form() -> None:
    kinds = {"CausalConfig": "flat", "SidlightConfig": "sidlight", "TigerConfig": "tiger"}
    for kind, name in kinds.items():
        form = {} if name == "tiger" else {"model.form": "flat"}
        assert model_name({"model.kind": kind, **form}, {}) == model_name(form, {"inputs": {"kind": kind}}) == name


def test_seeds_of_one_configuration_are_summed_up(tmp_path: Path) -> None:
    recalls = (0.04, 0.05, 0.06)
    folders = [make(tmp_path / "toy" / f"s{seed}", seed, recall=recalls[seed]) for seed in range(3)]
    folders.insert(1, make(tmp_path / "toy" / "flat", form="flat"))
    rows = rows_of(*folders, make(tmp_path / "toy" / "s3", 3, recall=0.9, finished=False))
    assert [row.subtitle for row in rows] == ["s0", "s1", "s2", "s3", "of 3 seeds", "flat"]
    mean = rows[4]
    assert mean.mean
    assert figures(mean)["test/recall@10"] == "0.0500"  # (.04 + .05 + .06) / 3; the unfinished seed does not count
    spreads = {column.key: cell.spread for column, cell in zip(COLUMNS, mean.cells, strict=True)}
    assert spreads["test/recall@10"] == "±0.0100"  # sqrt((.01² + 0 + .01²) / 2)
    assert spreads["parameters"] == ""  # all the same
    assert rows[0].settings == ["seed=0"]
    assert list(label(by_config([read_run(folder) for folder in folders]))) == ["item (3 seeds)", "flat"]


def test_the_same_seed_twice_is_one_seed(tmp_path: Path) -> None:
    rows = rows_of(make(tmp_path / "toy" / "a"), make(tmp_path / "toy" / "b"), make(tmp_path / "toy" / "c", seed=2))
    assert [row.subtitle for row in rows] == ["a", "b", "c", "of 2 seeds"]


def test_a_mean_needs_the_figure_of_every_seed(tmp_path: Path) -> None:
    one, two = make(tmp_path / "toy" / "a"), make(tmp_path / "toy" / "b", seed=2)
    (two / "evaluate.manifest.json").unlink()  # as where it is tested again: test.json is still that of before
    rows = rows_of(one, two)
    assert rows[1].notes == ["not tested"]
    assert figures(rows[2])["test/recall@10"] == "–"
    assert figures(rows[2])["val/recall@10"] == "0.0400"


def test_times_begin_with_the_pretraining(tmp_path: Path) -> None:
    folder = make(tmp_path / "toy" / "a", minutes=10.0)
    (folder / "pretraining.csv").write_text("epoch,seconds,cpu_seconds\n1,240,120\n2,480,240\n")
    run = read_run(folder)
    assert run.figures["minutes"] == 14.0 and run.minutes.tolist() == [6.5, 9.0, 11.5, 14.0]
    assert run.columns["seconds"].tolist() == [780, 1080, 1380, 1680]


def test_only_what_differs_is_told_and_as_short_as_is_clear(tmp_path: Path) -> None:
    one = read_run(make(tmp_path / "toy" / "a"))
    other = {"optimizer": {"learning_rate": 0.001}, "train": {"max_epochs": 9, "ema": 0.0}, "evaluation": {"at": [5]}}
    two = read_run(make(tmp_path / "toy" / "b", config=other))
    keys = differing([one, two])
    assert keys == ["optimizer.learning_rate", "train.max_epochs", "evaluation.at"]  # ema 0 is as good as no ema
    known = list(two.options)
    assert settings(two, keys, known) == ["optimizer.learning_rate=0.001", "max_epochs=9", "at=[5]"]
    assert settings(two, ["seed", "tokenizer.seed"], known) == ["seed=1", "tokenizer.seed=1"]


def test_an_option_at_its_default_is_that_of_a_run_from_before_there_was_it(tmp_path: Path) -> None:
    old = {"optimizer": {"learning_rate": 0.003}, "tokenizer": {"seed": 1}}
    new = {"optimizer": {"learning_rate": 0.003, "kind": "adamw"}, "tokenizer": {"seed": 1, "revive": True}}
    other = {**new, "optimizer": {"learning_rate": 0.003, "kind": "adafactor"}}
    configs = [old, new, other]
    runs = [read_run(make(tmp_path / "toy" / str(seed), seed, config=config)) for seed, config in enumerate(configs)]
    assert [len(group) for group in by_config(runs)] == [2, 1]
    assert differing(runs) == ["seed", "optimizer.kind"]


def test_runs_of_code_that_computed_otherwise_are_no_seeds_of_one_configuration(tmp_path: Path) -> None:
    folders = [make(tmp_path / "toy" / str(seed), seed, form="tiger") for seed in range(4)]
    for folder, (version, revision) in zip(folders, [(2, 1), (2, 0), (1, 1), (2, 1)], strict=True):
        manifest = json.loads((folder / "train.manifest.json").read_text())
        manifest["inputs"] |= {"version": version, "revision": revision}
        (folder / "train.manifest.json").write_text(json.dumps(manifest))
    (folders[3] / "evaluate.manifest.json").write_text(json.dumps({"inputs": {"version": 3}}))
    folders.append(make(tmp_path / "toy" / "4", 4, form="tiger", finished=False))
    runs = [read_run(folder) for folder in folders]
    groups = by_config(runs)
    assert [[run.folder.name for run in group] for group in groups] == [["0"], ["1"], ["2"], ["3"], ["4"]]
    assert [run.options["code"] for run in runs] == [None, "training 2.0", "training 1.1", "test 3", None]
    assert any(said.startswith("code: ") for said in cautions(runs)) and not cautions(runs[:1])


def test_runs_without_training_are_drawn_and_leave_the_axis_linear(tmp_path: Path) -> None:
    none = make(tmp_path / "popularity" / "a", minutes=0.0)
    groups = label(by_config([read_run(folder) for folder in (none, make(tmp_path / "toy" / "b"))]))
    ax = Figure().subplots()
    for paint in painters(groups, {"val/recall@10": "Recall@10"}):
        paint(ax)
    assert ax.get_xscale() == "linear"
    assert len(ax.get_lines()) == 2


def test_a_run_on_a_machine_without_bfloat16_says_so(tmp_path: Path) -> None:
    folder = make(tmp_path / "toy" / "aaa", config={"train": {"max_epochs": 4, "precision": "bf16-mixed"}})
    assert rows_of(folder)[0].notes == [], "of before it was noted"
    manifest = json.loads((folder / "train.manifest.json").read_text())
    for precision, notes in (
        ("bf16-mixed", []),
        ("32-true", ["computed in 32-true, as its machine has no bfloat16"]),
    ):
        manifest["figures"]["precision"] = precision
        (folder / "train.manifest.json").write_text(json.dumps(manifest))
        assert rows_of(folder)[0].notes == notes


def test_an_unfinished_run_shows_what_there_is(tmp_path: Path) -> None:
    (row,) = rows_of(make(tmp_path / "toy" / "a", finished=False))
    assert row.notes == ["unfinished: 4 of 4 epochs"]
    shown = figures(row)
    assert (shown["minutes"], shown["val/ndcg@10"], shown["test/ndcg@10"]) == ("10.0", "0.0300", "–")
    started = make(tmp_path / "toy" / "b", form="tiger", finished=False)
    (started / "metrics.csv").unlink()
    (row,) = rows_of(started)
    assert (row.model, row.notes) == ("–", ["unfinished: 0 of 4 epochs"])
    assert set(figures(row).values()) == {"–"}


def test_a_run_without_cpu_seconds_says_that_its_minutes_are_wall_time(tmp_path: Path) -> None:
    run = read_run(make(tmp_path / "toy" / "a", form="tiger", cpu=False))
    (row,) = table_rows([[run]])[0]
    assert (row.model, row.notes) == ("tiger", ["wall minutes, with validations"])
    assert figures(row)["minutes"] == "20.0"  # `make` lets the wall clock run twice as fast
    assert list(label([[run]])) == ["tiger (wall time)"]


def test_the_best_of_a_column_is_marked_where_it_can_be_told(tmp_path: Path) -> None:
    one, two = make(tmp_path / "toy" / "a"), make(tmp_path / "toy" / "b", form="flat", recall=0.05)
    place = [column.key for column in COLUMNS].index("test/recall@10")
    assert [row.cells[place].best for row in rows_of(one, two)] == [False, True]
    elsewhere = make(tmp_path / "toy" / "c", recall=0.06, stages={**STAGES, "prepare": "other"})
    assert not any(row.cells[place].best for row in rows_of(one, two, elsewhere))
    assert not any(cell.best for row in rows_of(one) for cell in row.cells), "nothing to be better than"


@pytest.mark.parametrize(
    ("other", "warning"),
    [
        ({"stages": {"prepare": "cafe99", "tokenize": "beef99"}}, "different catalogues (prepare cafe01, cafe99)"),
        ({"stages": {**STAGES, "tokenize": "beef99"}}, "different semantic IDs (tokenize beef02, beef99)"),
        ({"config": {"split": {"kind": "time"}}}, "different splits"),
        ({"config": {"sequences": {"eval_users": 100}}}, "validated on different users"),
        ({"config": {"evaluation": {"num_beams": 20}}}, "decoded in different ways (evaluation.num_beams None, 20)"),
        ({"seed": 2}, ""),
    ],
)
def test_what_cannot_be_compared_is_warned_of(other: dict[str, Any], warning: str, tmp_path: Path) -> None:
    runs = [read_run(make(tmp_path / "toy" / "a")), read_run(make(tmp_path / "toy" / "b", **other))]
    said = cautions(runs)
    assert len(said) == bool(warning)
    assert all(words.startswith(warning) for words in said)


def test_the_same_raw_files_under_another_hash_may_be_the_same_catalogue(tmp_path: Path) -> None:
    folders = [make(tmp_path / "toy" / name, stages={**STAGES, "prepare": name}) for name in ("a", "b")]
    for folder in folders:
        environment = json.loads((folder / "environment.json").read_text())
        (folder / "environment.json").write_text(json.dumps({**environment, "raw_files": {"reviews.gz": "f00d"}}))
    (said,) = cautions([read_run(folder) for folder in folders])
    assert said.startswith("the same raw files, prepared by different versions of the code (prepare a, b)")


def test_the_page_stands_alone_and_the_image_is_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folders = [
        make(tmp_path / "toy" / "a", 1),
        make(tmp_path / "toy" / "b", 2, recall=0.05),
        make(tmp_path / "old" / "c", form="tiger", cpu=False, minutes=200, stages={**STAGES, "prepare": "<b>"}),
    ]
    page, image = tmp_path / "out.html", tmp_path / "quality.png"
    assert main([*map(str, folders), "--out", str(page), "--png", str(image)]) == 0
    said = capsys.readouterr().out
    assert said.startswith("warning: different catalogues")
    assert "±0.0071" in said  # of .04 and .05: .01 / sqrt(2)
    assert f"written: {page}" in said
    text = page.read_text()
    assert text.count("<svg") == text.count("</svg>") == 2
    assert not re.search(r"<(script|link|img|iframe)|https?://|@import|url\((?!#)", text)
    assert {name[1:] for name in re.findall(r'href="([^"]*)"', text)} <= set(re.findall(r'id="([^"]*)"', text))
    for words in ("of 2 seeds", "±0.0071", "&lt;b&gt;", "tiger (wall time)", "item (2 seeds)", "run toy", "c0ffee"):
        assert words in text
    assert "<b>)" not in text
    assert image.read_bytes().startswith(b"\x89PNG\r\n\x1a\n")


def test_the_table_keeps_every_figure_on_a_narrow_terminal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    folders = [make(tmp_path / "toy" / "a"), make(tmp_path / "toy" / "b", form="flat", config={"word": "x" * 50})]
    assert main([*map(str, folders), "--out", str(tmp_path / "out.html")]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[-11:] for line in lines if line.strip().startswith("toy")] == [
        ["1.25M", "10.0", "2,346", "1.3", "0.0400", "0.0300", "0.0200", "0.0100", "0.0400", "0.0200", "165"]
    ] * 2


def test_a_run_that_has_only_its_folder_is_left_out_beside_others(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, begun = make(tmp_path / "toy" / "a"), tmp_path / "toy" / "b"
    begun.mkdir()
    assert main([str(folder), str(begun), "--out", str(tmp_path / "out.html")]) == 0
    assert f"left out, as nothing is in it yet: {begun}" in capsys.readouterr().out.replace("\n", "")
    assert main([str(begun), "--out", str(tmp_path / "out.html")]) == 2
    assert "is no run: it holds no config.yaml" in capsys.readouterr().err


def test_runs_that_were_never_validated_have_no_drawing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = make(tmp_path / "toy" / "a", finished=False)
    (folder / "metrics.csv").write_text("epoch,cpu_seconds,train/loss\n1,30,4.0\n")
    page, image = tmp_path / "out.html", tmp_path / "quality.png"
    assert main([str(folder), "--out", str(page)]) == 0
    assert "<svg" not in page.read_text()
    capsys.readouterr()
    assert main([str(folder), "--out", str(page), "--png", str(image)]) == 2
    assert "none of the runs has been validated" in capsys.readouterr().err
    assert not image.exists()


def test_a_mistake_is_one_line_without_a_traceback(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = make(tmp_path / "toy" / "a")
    mistakes = {
        "toy is no run: it holds no config.yaml; did you mean": [tmp_path / "toy"],
        "nothing is no run: it holds no config.yaml; give folders like": [run, tmp_path / "nothing"],
        "out.html cannot be written: No such file": [run, "--out", tmp_path / "missing" / "out.html"],
    }
    for message, arguments in mistakes.items():
        assert main([*map(str, arguments)]) == 2
        error = capsys.readouterr().err
        assert error.startswith("error: ")
        assert message in error
        assert error.count("\n") == 1


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("config.yaml", "a: ["),
        ("config.yaml", "- 1"),
        ("environment.json", "{"),
        ("metrics.csv", "epoch\nx\n"),
        ("train.manifest.json", "[]"),
        ("test.json", ""),
    ],
)
def test_a_damaged_file_is_named(name: str, content: str, tmp_path: Path) -> None:
    folder = make(tmp_path / "toy" / "a")
    (folder / name).write_text(content)
    with pytest.raises(UserError, match=name):
        read_run(folder)


def test_files_of_a_finished_stage_are_those_it_wrote(tmp_path: Path) -> None:
    folder = make(tmp_path / "toy" / "a")
    files = {name: file_hash(folder / name) for name in ("config.yaml", "environment.json", "metrics.csv")}
    manifest = json.loads((folder / "train.manifest.json").read_text()) | {"files": files | {"best.ckpt": "not read"}}
    (folder / "train.manifest.json").write_text(json.dumps(manifest))
    assert read_run(folder).finished
    lines = (folder / "metrics.csv").read_text().splitlines(keepends=True)
    (folder / "metrics.csv").write_text("".join(lines[:3]))
    with pytest.raises(UserError, match="metrics.csv is damaged: .* Repeat the run's command with force=train"):
        read_run(folder)
    (folder / "train.manifest.json").write_text(json.dumps(manifest | {"files": []}))
    with pytest.raises(UserError, match="train.manifest.json is damaged: .* Repeat the run's command with force=train"):
        read_run(folder)


def test_an_empty_configuration_is_none(tmp_path: Path) -> None:
    folder = make(tmp_path / "toy" / "a", finished=False)
    (folder / "config.yaml").write_text("")
    with pytest.raises(UserError, match="config.yaml is no configuration: it holds no keys"):
        read_run(folder)
