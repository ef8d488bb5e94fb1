"""A study from its command to its page. The runs are faked but for one, which is trained; their stages are real."""

import itertools
import json
import re
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from datamodules.split import SplitConfig
from datamodules.synthetic import SyntheticConfig
from experiments import pipeline
from experiments.config import as_trained, asked_at_test, override, to_yaml
from experiments.named import glass_tiny
from experiments.paired import Scores, history_lengths
from experiments.studies import GLASS, PLAIN, STUDIES, Study
from experiments.study import finished, main, read
from experiments.study_page import sections
from experiments.study_plan import command as single
from experiments.study_plan import plan
from experiments.study_table import Row, Summary, Table, by_length
from lightning_modules.configs import RQVAEConfig
from sid.configs import TreeConfig
from sid.errors import UserError

SMALL = [
    "data.num_users=40",
    "data.num_categories=2",
    "data.series=3",
    "data.old_events=12",
    "data.recent_events=6",
    "embed.dim=8",
    "tokenizer.codebook_sizes=[6,6]",
    "tokenizer.epochs=1",
    "model.width=16",
    "model.ff_width=16",
    "sequences.max_items=6",
    "train.max_epochs=1",
    "train.validate_every=1",
    "evaluation.num_beams=10",
    "evaluation.free_beams=10",
    "evaluation.recall_at=[10]",
    "evaluation.ndcg_at=[10]",
    "evaluation.entropy_at=[10]",
    "evaluation.invalid_at=[10]",
]
ORACLE = "first code given (oracle)"
WHOLE = "whole model"
QUALITY = {"tier": 0.2, "search": 0.3, "oracle_first_code": -0.2}
TWO = Study(
    "Two of everything",
    ["causal_tiny", "tiger_tiny"],
    {
        "own": [],
        "tree": ["tokenizer=tree"],
        "huge": ["tokenizer.codebook_sizes=[8,512]"],
        "shallow": {"tiger_tiny": ["model.num_layers=1"]},
        "combined": {"causal_tiny": ["combined_with=[tiger_tiny]"]},
    },
    base="own",
    tokenizer_seeds=True,
    published={"tiger_tiny": {"own": {"recall@10": 0.04, "ndcg@10": 0.02}, "tree": {"recall@10": 0.05}}},
)


class Faked(pipeline.Pipeline):
    """Trains nothing: every target is in the list with a chance that depends on the parts that are switched on. The
    stages, their folders and manifests are real."""

    trainings: ClassVar[list[pipeline.Pipeline]] = []
    killed_at: ClassVar[int] = 0
    """Ctrl-C comes in this training, counted from 1."""
    breaks: ClassVar[type | tuple[()]] = ()
    """With this kind of tokenizer a training runs out of memory."""

    def _embed(self, folder: Path) -> dict[str, Any]:
        return {}

    def _tokenize(self, folder: Path) -> dict[str, Any]:
        for other in self.companions:
            other.run("embed", lambda *figures: None)
        sizes = self.config.tokenizer.codebook_sizes
        if max(sizes) > 256:
            raise UserError(f"too few items for {max(sizes)} codes")
        rate = 0.5 if isinstance(self.config.tokenizer, TreeConfig) else 0.1
        return {
            "codebook_sizes": [*sizes, 3],
            "largest_group": 3,
            "collision_rate": rate,
            "usage": [1.0, 0.5],
            "reconstruction": [0.4, 0.2],
        }

    def _train(self, folder: Path) -> dict[str, Any]:
        if len(self.trainings) + 1 == self.killed_at:
            raise KeyboardInterrupt
        if isinstance(self.config.tokenizer, self.breaks):
            raise RuntimeError("out of memory\nTried to allocate 2 GiB")
        self.trainings.append(self)
        width = getattr(self.config.model, "width", 0)
        return {"parameters": 1000 * width, "cpu_seconds": 12.0, "seconds": 20.0, "device": "cpu"}

    def _evaluate(self, folder: Path) -> dict[str, Any]:
        test = self.split.test
        switches = {**vars(self.config.model), **vars(self.config.evaluation)}
        chance = 0.2 + sum(value for name, value in QUALITY.items() if switches.get(name))
        chance += 0.8 * switches["oracle_first_code"]
        hit_E = np.random.default_rng(self.config.seed).random(len(test.user_E)) < chance
        target_E = self.catalog.item_M[test.target_E]
        rows = {"user": test.user_E, "rank": np.full(len(hit_E), 2, np.int32), "target": target_E.astype(np.int32)}
        rows["item"] = np.where(hit_E, target_E, (target_E + 1) % self.catalog.num_items).astype(np.int32)
        pq.write_table(pa.table(rows), folder / "recommendations.parquet")
        metrics = {"recall@10": float(hit_E.mean()), "ndcg@10": float(hit_E.mean() / np.log2(3))}
        return {"metrics": metrics, "users_per_second": 100.0}


@pytest.fixture
def faked(monkeypatch: pytest.MonkeyPatch) -> type[Faked]:
    monkeypatch.setattr(pipeline, "Pipeline", Faked)
    monkeypatch.setattr(Faked, "trainings", [])
    monkeypatch.setattr(Faked, "killed_at", 0)
    monkeypatch.setattr(Faked, "breaks", ())
    monkeypatch.setitem(STUDIES, "two", TWO)
    monkeypatch.setenv("COLUMNS", "60")
    return Faked


def command(output: Path, *more: str) -> list[str]:
    return ["glass_tiny", *SMALL, f"output_dir={output}", *more]


def two(output: Path, *more: str) -> list[str]:
    return ["two", "data.num_users=60", "data.num_items=100", f"output_dir={output}", *more]


def written(output: Path, name: str) -> dict[str, dict[str, Any]]:
    """Experiment -> table, its rows by name."""
    tables = json.loads((output / "studies" / name / "study.json").read_text())["tables"]
    return {table["experiment"]: {**table, "rows": {row["name"]: row for row in table["rows"]}} for table in tables}


def glass(output: Path) -> dict[str, Any]:
    return written(output, "glass_tiny")["glass_tiny"]


@pytest.mark.parametrize("name", STUDIES)
def test_every_row_of_every_study_is_a_valid_configuration_and_another_one(name: str) -> None:
    study = STUDIES[name]
    said: list[str] = []
    cells = plan(read([name, "seeds=1 2"]), said.append)
    assert said == [] and [cell.row for cell in cells if cell.problems] == []
    assert {cell.row for cell in cells} == set(study.rows) and cells[0].row == study.base
    assert all(cell.asked and list(cell.configs) == [1, 2] for cell in cells)
    alike = [cell.experiment + to_yaml(config) for cell in cells for config in cell.configs.values()]
    assert len(set(alike)) == len(alike)
    assert {study.by_length or study.base, *(row for rows in study.published.values() for row in rows)} <= {*study.rows}
    assert not any("," in row or "=" in row for row in study.rows), "only= could not name it"


def test_a_row_that_is_what_the_experiment_does_anyway_is_left_out() -> None:
    said: list[str] = []
    asked = read(["glass_tiny", "seeds=1", "only=10 found, no neighbours", "model.retrieved=10"])
    cells = plan(asked, said.append)
    assert [cell.row for cell in cells if cell.asked] == [WHOLE, "no neighbours"]
    assert said == ["left out, as it changes nothing in glass_tiny: 10 found (model.retrieved=10)"]


def test_a_seed_is_the_tokenizers_too_where_the_study_says_so() -> None:
    asked = read(["tokenizers", "seeds=2", "only=tree", "on=causal_tiny"])
    (base, tree) = [cell for cell in plan(asked, print) if cell.asked]
    assert (tree.configs[2].seed, tree.configs[2].tokenizer.seed, tree.overrides) == (2, 2, ["tokenizer=tree"])
    words = "python -m experiments.run causal_tiny tokenizer=tree seed=2 tokenizer.seed=2"
    assert single(asked, tree, 2) == words and base.configs[2].tokenizer.seed == 2
    asked = read(["glass_tiny", "seeds=2", "tokenizer.seed=5"])
    first = plan(asked, print)[0]
    assert (first.configs[2].seed, first.configs[2].tokenizer.seed) == (2, 5)
    assert single(asked, first, 2) == "python -m experiments.run glass_tiny tokenizer.seed=5 seed=2"


def test_the_vq_vae_keeps_its_one_codebook() -> None:
    cells = plan(read(["tokenizers", "seeds=1", "only=VQ-VAE", "tokenizer.codebook_sizes=[64,64]"]), print)
    sizes = {cell.row: cell.configs[1].tokenizer.codebook_sizes for cell in cells if cell.asked}
    assert sizes == {"RQ-VAE": [64, 64], "VQ-VAE": [1024]}


def test_what_is_only_asked_at_the_test_shares_the_training_and_has_a_folder_of_its_own(tmp_path: Path) -> None:
    plain = override(glass_tiny.config(), [f"output_dir={tmp_path}"])
    told = override(glass_tiny.config(), [f"output_dir={tmp_path}", "evaluation.oracle_first_code=true"])
    assert asked_at_test(plain.evaluation) == {} and asked_at_test(told.evaluation) == {"oracle_first_code": True}
    assert as_trained(told) == plain != told
    one, two = pipeline.Pipeline(plain), pipeline.Pipeline(told)
    assert one.train == two.train
    assert one.evaluate.folder == one.train.folder and not one.evaluate.owns_folder
    assert two.evaluate.folder.parent == tmp_path / "artifacts" / "evaluate" and two.evaluate.owns_folder


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
    assert main(two(tmp_path, "seeds=1", "on=tiger_tiny", "only=tree,shallow")) == 2
    rows = written(tmp_path, "two")["tiger_tiny"]["rows"]
    assert {name: row["seeds"] for name, row in rows.items()} == {"own": [1], "tree": [], "shallow": [1]}
    assert rows["tree"]["problems"] == {"RuntimeError: out of memory": [1]}
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


def test_help_lists_the_studies(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    assert "make study NAME=" in (said := capsys.readouterr().out)
    assert "tokenizers        Ways to make a semantic ID, on causal_beauty, causal_sports" in said


def test_a_trained_model_is_asked_twice_and_a_lost_file_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("experiments.report.write_report", lambda folder, *rest: folder / "report.html")  # seconds
    arguments = command(tmp_path, "seeds=1", f"only={ORACLE}")
    assert main(arguments) == 0
    said = capsys.readouterr().out
    assert said.count("train: working in") == 1 and said.count("evaluate: working in") == 2
    (run,), (asked,) = tmp_path.glob("runs/glass_tiny/*/"), tmp_path.glob("artifacts/evaluate/*/")
    assert "oracle_first_code: false" in (run / "config.yaml").read_text()
    command_line = json.loads((run / "environment.json").read_text())["command"]
    assert command_line.startswith("python -m experiments.run glass_tiny data.num_users=40")
    assert command_line.endswith("seed=1")
    lists = pq.read_table(asked / "recommendations.parquet")
    assert len(set(zip(lists["user"].to_pylist(), lists["target"].to_pylist(), strict=True))) == 8 * 4
    plain, told = (json.loads((folder / "test.json").read_text())["metrics"] for folder in (run, asked))
    assert told["recall@10"] >= plain["recall@10"] and told["prefix@1/level1"] == 1 > plain["prefix@1/level1"]
    change = glass(tmp_path)["rows"][ORACLE]["changes"]["recall@10"]
    assert change["ours"] == pytest.approx(told["recall@10"])
    before = (tmp_path / "studies/glass_tiny/study.md").read_text()
    assert main(arguments) == 0
    assert "working in" not in capsys.readouterr().out
    assert (tmp_path / "studies/glass_tiny/study.md").read_text() == before
    (asked / "recommendations.parquet").unlink()
    assert main(arguments) == 2
    assert "lacks its file recommendations.parquet" in capsys.readouterr().out


def test_quartiles_of_history_length_follow_all_targets() -> None:
    catalog = SyntheticConfig(num_users=80, num_items=2000, mean_length=40).build()
    test = SplitConfig().build(catalog).test
    length_E = history_lengths(catalog, test)
    long_E = (length_E > np.median(length_E)).astype(float)  # the whole finds every target of a long history
    whole, plain_E = Scores(long_E, long_E), np.tile([1.0, 0.0], 40)
    parts = by_length(whole, Scores(plain_E, plain_E), catalog, test)
    assert parts[0].targets == sum(part.targets for part in parts[1:]) == 80
    assert (parts[0].shortest, parts[0].longest) == (length_E.min(), length_E.max())
    assert all(one.longest < other.shortest for one, other in itertools.pairwise(parts[1:]))
    assert [part.changes["recall@10"].ours for part in parts[1:]] == [0, 0, 1, 1]
    assert parts[0].changes["ndcg@10"].difference.value == pytest.approx(long_E.mean() - 0.5)
    row = Row(WHOLE, [], [1], ["x"], {"recall@10": [0.5], "ndcg@10": [0.5]}, {}, None, 1, 1.0, False, {}, {})
    table = Table("toy", 80, 80, 1, 1, False, [row], parts)
    (section,) = sections(Summary("toy", "Toys", WHOLE, PLAIN, False, [table], {}))
    (grid,) = section.more
    assert [words[0].split(":")[0] for words in grid.rows] == ["all", *["quartile"] * 4]
    assert grid.rows[-1][2].startswith("1.0000 / ")
