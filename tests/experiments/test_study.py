"""A study from its command to its page. The runs are faked; their stages are real."""

import re
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from datamodules.synthetic import SyntheticConfig
from experiments import pipeline
from experiments.stages import TakenError
from experiments.studies import GLASS, PLAIN, STUDIES
from experiments.study import finished, main
from lightning_modules.configs import RQVAEConfig
from sid.configs import TreeConfig
from tests.experiments.faked_study import ORACLE, QUALITY, SMALL, TWO, WHOLE, Faked, command, glass, two, written


@pytest.fixture
def faked(monkeypatch: pytest.MonkeyPatch) -> type[Faked]:
    monkeypatch.setattr(pipeline, "Pipeline", Faked)
    monkeypatch.setattr(Faked, "trainings", [])
    monkeypatch.setattr(Faked, "killed_at", 0)
    monkeypatch.setattr(Faked, "breaks", ())
    monkeypatch.setitem(STUDIES, "two", TWO)
    monkeypatch.setenv("COLUMNS", "60")
    return Faked


def test_a_whole_study_from_command_to_page(
    faked: type[Faked], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(command(tmp_path, "seeds=1,2")) == 0
    said = capsys.readouterr().out
    assert len(faked.trainings) == 2 * (len(GLASS) - 1), "all rows but the oracle, which has the whole model's weights"
    assert f"[2/{2 * len(GLASS)}] glass_tiny: no tier token, seed 1" in said
    found = glass(tmp_path)
    rows = found["rows"]
    assert list(rows) == list(GLASS)
    assert (found["users"], found["targets"]) == (8, 32) and found["finished"] == found["planned"] == 2 * len(GLASS)
    for row in rows.values():
        assert row["seeds"] == [1, 2] and len(row["scores"]["recall@10"]) == 2
        for name, change in row["changes"].items():
            ours, base = (np.mean(rows[which]["scores"][name]) for which in (row["name"], WHOLE))
            assert (change["ours"], change["base"]) == pytest.approx((ours, base))
            assert change["relative"]["value"] == pytest.approx(ours / base - 1)
    assert rows[WHOLE]["changes"] == {}
    assert rows["sum without a gate"]["changes"]["recall@10"]["relative"] == {"value": 0, "low": 0, "high": 0}
    assert rows[PLAIN]["changes"]["recall@10"]["relative"]["high"] < 0
    assert [name for name, row in rows.items() if row["borrowed"]] == [ORACLE]
    (everything,) = found["parts"]  # all histories of glass_tiny have one length
    assert (everything["shortest"], everything["longest"], everything["targets"]) == (18, 18, 32)
    mean = f"{np.mean(rows[WHOLE]['scores']['recall@10']):.4f}"
    folder = tmp_path / "studies" / "glass_tiny"
    page = (folder / "study.html").read_text()
    for text in (said, (folder / "study.md").read_text(), page):
        assert mean in text and "no tier token" in text and "training CPU s" in text
        assert f"{rows[PLAIN]['changes']['recall@10']['relative']['low']:+.1%}, " in text
        assert f"{ORACLE}: the weights are those of whole model" in text.replace("\n", " ")
        assert "256, 2x128 + 3" in text and "Partial" not in text and "published R@10" not in text
    assert page.count("<svg") == 1
    assert not re.search(r"<(script|link|img|iframe)|https?://|@import|url\((?!#)", page)


def test_only_the_rows_asked_for_are_run_and_all_that_is_finished_is_shown(
    faked: type[Faked], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def shown(*more: str) -> dict[str, Any]:
        assert main(two(tmp_path, "on=tiger_tiny", *more)) == 0
        rows: dict[str, Any] = written(tmp_path, "two")["tiger_tiny"]["rows"]
        return rows

    assert list(shown("seeds=7", "only=shallow")) == ["own", "shallow"] and len(faked.trainings) == 2
    said = capsys.readouterr().out
    assert "±: " in said and "Partial: 2 of 4 runs are finished." in said
    assert list(shown("seeds=7", "only=tree")) == ["own", "tree", "shallow"] and len(faked.trainings) == 3
    assert "1 of 2 runs are finished" in capsys.readouterr().out
    rows = shown("seeds=7 8", "only=shallow")
    assert [row["seeds"] for row in rows.values()] == [[7, 8], [7], [7, 8]]
    base = rows["tree"]["changes"]["recall@10"]["base"]
    assert base == pytest.approx(rows["own"]["scores"]["recall@10"][0]), "on the seed that both have"


def test_rows_from_machines_without_bfloat16_are_named(
    faked: type[Faked], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = two(tmp_path, "on=tiger_tiny", "only=tree", "seeds=1 2")
    note = "In float32 for want of bfloat16, so that times are of two kinds: "
    assert main(arguments) == 0
    assert note not in capsys.readouterr().out
    assert main([*arguments, "train.precision=bf16-mixed"]) == 0
    text = (tmp_path / "studies" / "two" / "study.md").read_text()
    assert f"{note}own (seeds 1 2), tree (seeds 1 2)." in text


def test_a_killed_study_leaves_a_table_and_goes_on(
    faked: type[Faked], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = two(tmp_path, "seeds=1 2", "only=tree", "tokenizer.codebook_sizes=[8,8]")
    monkeypatch.setattr(faked, "killed_at", 7)
    assert main(arguments) == 130
    assert "goes on from the last checkpoint" in capsys.readouterr().err
    tables = written(tmp_path, "two")
    seeds = {name: [row["seeds"] for row in table["rows"].values()] for name, table in tables.items()}
    assert seeds == {"causal_tiny": [[1, 2], [1, 2]], "tiger_tiny": [[1], [1]]}, "one seed of all rows before the next"
    assert "Partial: 2 of 8 runs are finished." in (tmp_path / "studies/two/study.md").read_text()
    monkeypatch.setattr(faked, "killed_at", 0)
    assert main(arguments) == 0
    assert len(faked.trainings) == 8 and "6 of 8 runs are finished" in capsys.readouterr().out
    assert written(tmp_path, "two")["tiger_tiny"]["rows"]["tree"]["seeds"] == [1, 2]


def test_several_experiments_with_rows_of_their_own_one_of_which_fails(
    faked: type[Faked], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(two(tmp_path, "seeds=1 2", "model.num_layers=2")) == 2
    said = capsys.readouterr()
    assert (
        said.err
        == "error: huge on causal_tiny, huge on tiger_tiny failed, for the reason that stands below the table\n"
    )
    assert "failed: too few items for 512 codes" in said.out
    causal, tiger = written(tmp_path, "two").values()
    assert list(causal["rows"]) == ["own", "tree", "huge", "combined"]
    assert list(tiger["rows"]) == ["own", "tree", "huge", "shallow"]
    assert (tiger["planned"], tiger["finished"]) == (8, 6)
    for rows in (causal["rows"], tiger["rows"]):
        assert rows["huge"]["problems"] == {"too few items for 512 codes": [1, 2]}
        assert (rows["huge"]["scores"]["recall@10"], rows["huge"]["changes"]) == ([], {})
        assert rows["tree"]["sids"]["collision_rate"] == 0.5 and rows["own"]["sids"]["usage"] == 0.75
    seeds = {(run.config.seed, run.config.tokenizer.seed) for run in faked.trainings}
    assert seeds == {(1, 1), (2, 2)} and len({run.tokenize.folder for run in faked.trainings}) == 6
    page = (tmp_path / "studies/two/study.html").read_text()
    for text in (said.out, (tmp_path / "studies/two/study.md").read_text(), page):
        assert "0.0400 / 0.0200" in text and "0.0500 / –, +25.0%" in text
        assert "huge failed with seed 1 2: too few items" in text
        assert "those of tokenizer and retriever" in text.replace("\n", " ")
    assert page.count("<svg") == 2 and page.count("Diamond: published") == 1


def test_other_experiments_than_the_studys_own(faked: type[Faked], tmp_path: Path) -> None:
    assert main(["two", f"output_dir={tmp_path}", "on=glass_tiny", "seeds=1", "only=own", *SMALL]) == 0
    assert list(written(tmp_path, "two")) == ["glass_tiny"]
    assert main(two(tmp_path, "seeds=1", "only=tree", "on=tiger_tiny")) == 0
    assert list(written(tmp_path, "two")) == ["tiger_tiny"]
    assert main(two(tmp_path, "seeds=1", "only=own", "on=causal_tiny")) == 0
    assert {name: list(table["rows"]) for name, table in written(tmp_path, "two").items()} == {
        "causal_tiny": ["own"],
        "tiger_tiny": ["own", "tree"],
    }


def test_a_row_that_cannot_be_configured_fails_alone(faked: type[Faked], tmp_path: Path) -> None:
    arguments = two(tmp_path, "seeds=1", "on=tiger_tiny", "only=tree", "tokenizer.reassign=true")
    assert main(arguments) == 2
    rows = written(tmp_path, "two")["tiger_tiny"]["rows"]
    assert rows["own"]["seeds"] == [1] and rows["tree"]["seeds"] == []
    assert next(iter(rows["tree"]["problems"])).startswith("tokenizer.reassign=True: expected false")


def test_a_row_that_breaks_leaves_the_others_alone_and_shows_where(
    faked: type[Faked], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(faked, "breaks", TreeConfig)
    ended: list[int] = []
    monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace(finish=ended.append))
    assert main(two(tmp_path, "seeds=1", "on=tiger_tiny", "only=tree,shallow")) == 2
    rows = written(tmp_path, "two")["tiger_tiny"]["rows"]
    assert {name: row["seeds"] for name, row in rows.items()} == {"own": [1], "tree": [], "shallow": [1]}
    assert rows["tree"]["problems"] == {"RuntimeError: out of memory": [1]}
    assert ended == [1], "its wandb run, as a failure"
    said = capsys.readouterr()
    assert "failed: RuntimeError: out of memory\n" in said.out
    assert "Traceback" in said.err and "Tried to allocate 2 GiB" in said.err
    assert said.err.endswith("error: tree on tiger_tiny failed, for the reason that stands below the table\n")


def test_a_row_goes_without_what_its_kind_of_tokenizer_lacks(
    faked: type[Faked], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = two(tmp_path, "seeds=1", "on=tiger_tiny", "only=tree", "tokenizer.epochs=2", "tokenizer.sample=50")
    assert main(arguments) == 0
    rows = written(tmp_path, "two")["tiger_tiny"]["rows"]
    assert [row["seeds"] for row in rows.values()] == [[1], [1]]
    assert [row["left_out"] for row in rows.values()] == [[], ["tokenizer.epochs=2"]]
    own, tree = (run.config.tokenizer for run in faked.trainings)
    assert isinstance(own, RQVAEConfig) and isinstance(tree, TreeConfig)
    assert (own.epochs, own.sample, tree.sample) == (2, 50, 50)
    assert ["tokenizer.epochs=2" in run.command for run in faked.trainings] == [True, False]
    note = "tree: without tokenizer.epochs=2, as the kind of model or tokenizer has no such field."
    assert note in capsys.readouterr().out.replace("\n", " ")
    assert note in (tmp_path / "studies/two/study.html").read_text()


def test_a_finished_row_of_several_catalogues_is_known_without_their_raw_files(
    faked: type[Faked], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = two(tmp_path, "seeds=1", "on=causal_tiny", "only=combined")
    assert main(arguments) == 0 and len(faked.trainings) == 2
    capsys.readouterr()

    def raw_files(data: SyntheticConfig) -> list[Path]:
        assert data.num_users == 60, "the companion's would be downloaded"
        return []

    monkeypatch.setattr(SyntheticConfig, "raw_files", raw_files)
    assert main(arguments) == 0 and len(faked.trainings) == 2
    assert "2 of 2 runs are finished" in capsys.readouterr().out
    assert list(written(tmp_path, "two")["causal_tiny"]["rows"]) == ["own", "combined"]
    (run,) = (run for run in faked.trainings if run.config.combined_with)
    (companion,) = run.companions
    companion.embed.manifest.unlink()
    assert finished(run.config) is None


def test_nothing_to_compare_with_is_a_dash_and_no_drawing(faked: type[Faked], tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setitem(QUALITY, "tier", -0.5)
    monkeypatch.setitem(QUALITY, "search", -0.5)
    assert main(command(tmp_path, "seeds=1", f"only={PLAIN}")) == 0
    change = glass(tmp_path)["rows"][PLAIN]["changes"]["recall@10"]
    assert change["relative"] == {"value": None, "low": None, "high": None}
    assert "– [–, –]" in (tmp_path / "studies/glass_tiny/study.md").read_text()
    assert "<svg" not in (tmp_path / "studies/glass_tiny/study.html").read_text()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["glass_tyni"], "there is no study 'glass_tyni'; did you mean glass_tiny?"),
        (["seeds=1"], "which study?"),
        (["model.width=8"], "which study?"),
        (["two", "on=tiger_tin"], "there is no experiment 'tiger_tin'; did you mean tiger_tiny?"),
        (["two", "on="], "there is no experiment ''"),
        (["two", "tokenizer.seed=2"], 'tokenizer.seed=2: a study has several; write seeds="1 2 3"'),
        (["two", "data.name=Toys"], "data.name=Toys: the data set is that of the experiments: choose them with on="),
        (["glass_tiny", "only=no serach"], "there is no row 'no serach'; expected some of: whole model, no tier token"),
        (["glass_tiny", "only="], "there is no row ''"),
        (["glass_tiny", "seeds=1 x"], "seeds='1 x': expected different whole numbers"),
        (["glass_tiny", "seeds=1 01"], "expected different whole numbers"),
        (["glass_tiny", "seeds=-1"], "expected different whole numbers"),
        (["glass_tiny", "seeds="], "expected different whole numbers"),
        (["glass_tiny", "seeds=99999999999"], "seed=99999999999"),
        (["glass_tiny", "seed=2"], 'write seeds="1 2 3"'),
        (["glass_tiny", "force=train"], "stage= and force= are for single runs"),
        (["glass_tiny", "model.tyer=false"], "unknown key 'model.tyer'"),
    ],
)
def test_a_mistake_is_told_before_anything_runs(
    arguments: list[str], message: str, faked: type[Faked], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*arguments, f"output_dir={tmp_path}"] if arguments != ["seeds=1"] else arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and message in error
    assert not faked.trainings and not list(tmp_path.iterdir())


def test_a_study_ends_where_another_run_has_the_stage_that_its_further_processes_are_in(
    faked: type[Faked], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def taken(*arguments: Any) -> None:
        raise TakenError("another run is working on it")

    monkeypatch.setattr(faked, "run", taken)
    assert main(["two", "seeds=1", f"output_dir={tmp_path}"]) == 2
    said = capsys.readouterr()
    assert "error: another run is working on it" in said.err and "[2/" not in said.out + said.err


def test_help_lists_the_studies(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    assert "make study NAME=" in (said := capsys.readouterr().out)
    assert "tokenizers           Ways to make a semantic ID, on causal_beauty, causal_sports" in said
