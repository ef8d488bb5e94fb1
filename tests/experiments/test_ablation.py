"""An ablation from its command to its page. The runs are faked but for one, which is trained; their hashes are real."""

import itertools
import json
import re
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from datamodules.catalog import Catalog
from datamodules.split import SplitConfig
from datamodules.synthetic import SyntheticConfig
from experiments import pipeline
from experiments.ablation import main, plan
from experiments.ablation_page import tables
from experiments.ablation_table import Row, Summary, by_length
from experiments.ablations import ABLATIONS, GLASS, PLAIN, WHOLE
from experiments.config import as_trained, asked_at_test, override
from experiments.named import glass_tiny
from experiments.paired import Scores, history_lengths

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
QUALITY = {"tier": 0.2, "search": 0.3, "oracle_first_code": -0.2}


class Faked(pipeline.Pipeline):
    """Trains nothing: every target is in the list with a chance that depends on the parts that are switched on."""

    trained_folders: ClassVar[list[Path]] = []
    uneven: ClassVar[bool] = False

    @property
    def catalog(self) -> Catalog:  # type: ignore[override]
        return self.config.data.build()

    def run(self, last: str, show: Any) -> None:
        test = self.config.split.build(self.catalog).test
        model = {**vars(self.config.model), **vars(self.config.evaluation)}
        chance = 0.2 + sum(value for name, value in QUALITY.items() if model[name])
        chance += 0.8 * model["oracle_first_code"]
        hit_E = np.random.default_rng(self.config.seed).random(len(test.user_E)) < chance
        found = self.evaluate.folder / "recommendations.parquet"
        found.parent.mkdir(parents=True, exist_ok=True)
        if self.train.folder not in self.trained_folders:
            self.trained_folders.append(self.train.folder)
        target_E = self.catalog.item_M[test.target_E]
        rows = {"user": test.user_E, "rank": np.full(len(hit_E), 2, np.int32), "target": target_E.astype(np.int32)}
        rows["item"] = np.where(hit_E, target_E, (target_E + 1) % self.catalog.num_items).astype(np.int32)
        pq.write_table(pa.table(rows), found)
        metrics = {"recall@10": float(hit_E.mean()), "ndcg@10": float(hit_E.mean() / np.log2(3))}
        figures = {"parameters": 1000 * self.config.model.width, "cpu_seconds": 12.0, "seconds": 20.0, "device": "cpu"}
        self.figures = {"train": figures, "evaluate": {"metrics": metrics}}


@pytest.fixture
def faked(monkeypatch: pytest.MonkeyPatch) -> type[Faked]:
    monkeypatch.setattr(pipeline, "Pipeline", Faked)
    monkeypatch.setattr(Faked, "trained_folders", [])
    monkeypatch.setenv("COLUMNS", "60")
    return Faked


def command(output: Path, *more: str) -> list[str]:
    return ["glass_tiny", *SMALL, f"output_dir={output}", *more]


def test_every_row_of_every_model_is_a_valid_configuration_and_another_one() -> None:
    rows, runs = plan("glass_tiny", [1, 2], None, [], lambda line: None)
    assert list(rows) == [WHOLE, *GLASS]
    assert [(run.row, run.config.seed) for run in runs] == [(row, seed) for row in rows for seed in (1, 2)]
    alike = [json.dumps(vars(run.config), default=vars) for run in runs]
    assert len(set(alike)) == len(alike)
    assert runs[-1].command == "python -m experiments.run glass_tiny evaluation.oracle_first_code=true seed=2"
    assert all(PLAIN in rows for rows in ABLATIONS.values())


def test_a_row_that_is_what_the_experiment_does_anyway_is_left_out() -> None:
    said: list[str] = []
    rows, runs = plan("glass_tiny", [1], "10 found, no neighbours", ["model.retrieved=10"], said.append)
    assert list(rows) == [WHOLE, "no neighbours"] and len(runs) == 2
    assert said == ["left out, as it changes nothing here: 10 found (model.retrieved=10)"]


def test_what_is_only_asked_at_the_test_shares_the_training_and_has_a_folder_of_its_own(tmp_path: Path) -> None:
    plain = override(glass_tiny.config(), [f"output_dir={tmp_path}"])
    told = override(glass_tiny.config(), [f"output_dir={tmp_path}", "evaluation.oracle_first_code=true"])
    assert asked_at_test(plain.evaluation) == {} and asked_at_test(told.evaluation) == {"oracle_first_code": True}
    assert as_trained(told) == plain != told
    one, two = pipeline.Pipeline(plain), pipeline.Pipeline(told)
    assert one.train == two.train
    assert one.evaluate.folder == one.train.folder and not one.evaluate.owns_folder
    assert two.evaluate.folder.parent == tmp_path / "artifacts" / "evaluate" and two.evaluate.owns_folder


def test_the_whole_ablation_from_command_to_page(
    faked: type[Faked], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(command(tmp_path, "seeds=1,2")) == 0
    said = capsys.readouterr().out
    assert len(faked.trained_folders) == 2 * len(GLASS), "all rows but the oracle, which has the whole model's weights"
    assert f"[3/{2 * (1 + len(GLASS))}] no tier token, seed 1" in said
    folder = tmp_path / "ablations" / "glass_tiny"
    found = json.loads((folder / "ablation.json").read_text())
    rows = {row["name"]: row for row in found["rows"]}
    assert list(rows) == [WHOLE, *GLASS]
    assert (found["users"], found["targets"]) == (8, 32)
    for row in rows.values():
        assert row["seeds"] == [1, 2] and len(row["scores"]["recall@10"]) == 2
        for name, change in row["changes"].items():
            ours, base = (np.mean(rows[which]["scores"][name]) for which in (row["name"], WHOLE))
            assert (change["ours"], change["base"]) == pytest.approx((ours, base))
            assert change["relative"]["value"] == pytest.approx(ours / base - 1)
    assert rows[WHOLE]["changes"] == {}
    assert rows["sum without a gate"]["changes"]["recall@10"]["relative"] == {"value": 0, "low": 0, "high": 0}
    assert rows[PLAIN]["changes"]["recall@10"]["relative"]["high"] < 0
    assert [row["name"] for row in found["rows"] if row["borrowed"]] == [ORACLE]
    (everything,) = found["parts"]  # all histories of glass_tiny have one length
    assert (everything["shortest"], everything["longest"], everything["targets"]) == (18, 18, 32)
    mean = f"{np.mean(rows[WHOLE]['scores']['recall@10']):.4f}"
    for text in (said, (folder / "ablation.md").read_text(), (folder / "ablation.html").read_text()):
        assert mean in text and "no tier token" in text and "training CPU s" in text
        assert f"{rows[PLAIN]['changes']['recall@10']['relative']['low']:+.1%}, " in text
        assert f"{ORACLE}: the weights are those of the whole model" in text.replace("\n", " ")
    page = (folder / "ablation.html").read_text()
    assert page.count("<svg") == 1
    assert not re.search(r"<(script|link|img|iframe)|https?://|@import|url\((?!#)", page)


def test_only_the_rows_asked_for_are_run(
    faked: type[Faked], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(command(tmp_path, "seeds=7", "only=no search, gate fixed at 0.5")) == 0
    assert len(faked.trained_folders) == 3
    found = json.loads((tmp_path / "ablations/glass_tiny/ablation.json").read_text())
    assert [row["name"] for row in found["rows"]] == [WHOLE, "no search", "gate fixed at 0.5"]
    assert found["parts"] == []
    assert "±: " in capsys.readouterr().out


def test_nothing_to_compare_with_is_a_dash_and_no_drawing(faked: type[Faked], tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setitem(QUALITY, "tier", -0.5)
    monkeypatch.setitem(QUALITY, "search", -0.5)
    assert main(command(tmp_path, "seeds=1", f"only={PLAIN}")) == 0
    found = json.loads((tmp_path / "ablations/glass_tiny/ablation.json").read_text())
    assert found["rows"][1]["changes"]["recall@10"]["relative"] == {"value": None, "low": None, "high": None}
    assert "– [–, –]" in (tmp_path / "ablations/glass_tiny/ablation.md").read_text()
    assert "<svg" not in (tmp_path / "ablations/glass_tiny/ablation.html").read_text()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["glass_tyni"], "did you mean glass_tiny?"),
        (["seeds=1"], "which experiment?"),
        (
            ["tiger_tiny"],
            "tiger_tiny has no ablation: experiments/ablations.py has rows for GlassConfig, not for Tiger",
        ),
        (["glass_tiny", "only=no serach"], "there is no row 'no serach'; expected some of: no tier token, no search"),
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
    assert not faked.trained_folders and not list(tmp_path.iterdir())


def test_help_lists_the_experiments(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    assert "make ablation NAME=" in (said := capsys.readouterr().out) and "glass_tiny" in said


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
    found = json.loads((tmp_path / "ablations/glass_tiny/ablation.json").read_text())
    assert found["rows"][1]["changes"]["recall@10"]["ours"] == pytest.approx(told["recall@10"])
    before = (tmp_path / "ablations/glass_tiny/ablation.md").read_text()
    assert main(arguments) == 0
    assert "working in" not in capsys.readouterr().out
    assert (tmp_path / "ablations/glass_tiny/ablation.md").read_text() == before
    (asked / "recommendations.parquet").unlink()
    assert main(arguments) == 2
    assert "lacks its file recommendations.parquet" in capsys.readouterr().err


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
    row = Row(WHOLE, [], [1], ["x"], {"recall@10": [0.5], "ndcg@10": [0.5]}, {}, 1, 1.0, False)
    (_, grid) = tables(Summary("toy", 80, 80, False, [row], parts, {}))
    assert [words[0].split(":")[0] for words in grid.rows] == ["all", *["quartile"] * 4]
    assert grid.rows[-1][2].startswith("1.0000 / ")
