"""Classic retrievers and their leaderboard, from the command to the page, on a small catalogue."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml  # type: ignore[import-untyped]
from hypothesis import given
from hypothesis import strategies as st

from experiments import run, trainers
from experiments.config import to_yaml
from experiments.leaderboard import Asked, main, plan, retrievers
from experiments.leaderboard_page import LABEL, LABEL_LENGTH, label_lifts, published
from experiments.named import named
from experiments.named._rivals import DATASETS
from experiments.overrides import override
from experiments.pipeline import Pipeline
from experiments.results import read_run
from lightning_modules.retriever import RetrieverModule
from sid.errors import UserError

pytestmark = pytest.mark.usefixtures("blank_reports")
SMALL = [
    "data.num_users=120",
    "data.num_items=60",
    "data.num_categories=3",
    "sequences.batch_size=100",
    "train.max_epochs=2",
    "train.validate_every=1",
]
RUN = ["popularity", "itemknn", "hybridknn", "sasrec", "bert4rec", "rpg"]


def asked(output: Path, *more: str) -> list[str]:
    return ["tiny", *SMALL, f"output_dir={output}", *more]


def read(output: Path) -> dict[str, Any]:
    board: dict[str, Any] = json.loads((output / "leaderboards/tiny/leaderboard.json").read_text())
    return board


@pytest.fixture(scope="module")
def board(tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("board")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trainers, "has_bfloat16", lambda accelerator: False)
        assert main(asked(output, f"only={','.join(RUN)}", "seeds=1 2")) == 0
    return output


def test_rows_are_ranked_by_what_their_lists_hold(board: Path) -> None:
    rows = read(board)["rows"]
    assert sorted(row["experiment"] for row in rows) == sorted(f"{model}_tiny" for model in RUN)
    means = [np.mean(row["metrics"]["recall@10"]) for row in rows]
    assert means == sorted(means, reverse=True)
    for place, row in enumerate(rows):
        assert row["seeds"] == [1, 2]
        assert list(row["over"]) == [below["title"] for below in rows[place + 1 :]]
        for seed, folder in enumerate(row["folders"]):
            test = json.loads((Path(folder) / "test.json").read_text())
            assert test["metrics"]["recall@10"] == row["metrics"]["recall@10"][seed]
            lists = pq.read_table(Path(folder) / "recommendations.parquet").to_pandas()
            assert not lists.duplicated(["user", "item"]).any()
            assert (lists.groupby("user")["score"].diff().dropna() <= 0).all()


def test_popularity_is_the_row_that_every_test_has_beside_it(board: Path) -> None:
    (row,) = (row for row in read(board)["rows"] if row["experiment"] == "popularity_tiny")
    test = json.loads((Path(row["folders"][0]) / "test.json").read_text())
    for name, value in test["popularity"].items():
        assert test["metrics"][name] == pytest.approx(value, rel=1e-6), name
    assert row["seconds"] == row["parameters"] == 0


def test_the_page_says_it_all_by_itself(board: Path) -> None:
    folder = board / "leaderboards/tiny"
    page = (folder / "leaderboard.html").read_text()
    for text in (page, (folder / "leaderboard.md").read_text()):
        for row in read(board)["rows"]:
            assert row["title"] in text
            assert f"{np.mean(row['metrics']['recall@10']):.4f} ± " in text
        assert "Partial" in text
        (note,) = re.findall("In float32 for want of bfloat16, .*", text)
        assert all(f"{row['experiment']} (seeds 1 2)" in note for row in read(board)["rows"])
    assert page.count("<svg") == 2
    assert not re.search(r"<(script|link|img|iframe)|https?://|@import|url\((?!#)", page)


def test_a_report_without_semantic_ids(board: Path) -> None:
    (row,) = (row for row in read(board)["rows"] if row["experiment"] == "sasrec_tiny")
    folder = Path(row["folders"][0])
    page = (folder / "report.html").read_text()
    assert "Of training, which should fall." in page and "Both should fall" not in page
    assert "Semantic IDs" not in page and "Green codes" not in page and "test users</h2>" in page
    config = yaml.safe_load((folder / "config.yaml").read_text())
    assert "tokenizer" not in config and "embed" not in config and config["model"]["kind"] == "SASRecConfig"
    compared = read_run(folder)
    assert (compared.model, compared.options["tokenize"]) == ("sasrec", "none")
    environment = json.loads((folder / "environment.json").read_text())
    assert list(environment["stages"]) == ["prepare", "train", "evaluate"]


def test_a_report_of_semantic_ids_whose_items_are_scored_whole(board: Path) -> None:
    (row,) = (row for row in read(board)["rows"] if row["experiment"] == "rpg_tiny")
    folder = Path(row["folders"][0])
    assert "Semantic IDs" in (folder / "report.html").read_text()
    config = yaml.safe_load((folder / "config.yaml").read_text())
    assert config["tokenizer"]["kind"] == "ProductConfig" and config["model"]["kind"] == "RPGConfig"
    stages = json.loads((folder / "environment.json").read_text())["stages"]
    assert list(stages) == ["prepare", "embed", "tokenize", "train", "evaluate"]
    made = [path.name for path in (board / "artifacts/tokenize").iterdir() if path.is_dir()]
    assert made == [stages["tokenize"]], "no other model of this table has any"
    assert read_run(folder).options["tokenize"] == stages["tokenize"]


def test_what_trains_on_codes_is_another_training_with_others(board: Path) -> None:
    def trained(name: str, *more: str) -> str:
        return Pipeline(override(named(name), [*SMALL, f"output_dir={board}", *more])).train.hash

    usual = trained("rpg_tiny")
    others = ("tokenizer.depth=4", "tokenizer=lsh", "embed.collaborative=1")
    assert len({usual, *(trained("rpg_tiny", more) for more in others)}) == 4
    shared = override(named("rpg_beauty"), ["combined_with=[tiger_sports]"])
    assert yaml.safe_load(to_yaml(shared))["combined_with"] == ["tiger_sports"]
    assert "combined_with" not in to_yaml(named("sasrec_beauty"))


def test_the_digit_is_not_read(board: Path) -> None:
    pipeline = Pipeline(override(named("rpg_tiny"), [*SMALL, f"output_dir={board}"]))
    module, _ = pipeline.retriever()
    assert pipeline.table.digit and pipeline.table.num_levels == 9
    assert module.model.levels == 8


def test_finished_runs_are_reused_and_others_join(board: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(asked(board, "only=gru4rec,sasrec", "seeds=1")) == 0
    assert "1 of 2 runs are finished" in capsys.readouterr().out
    assert {row["experiment"] for row in read(board)["rows"]} >= {"gru4rec_tiny", "sasrec_tiny", "popularity_tiny"}


def test_a_model_that_cannot_be_so_fails_alone(board: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(asked(board, "only=popularity,sasrec", "seeds=1", "model.dropout=2")) == 2
    said = capsys.readouterr()
    assert "sasrec_tiny failed: model.dropout=2.0: expected" in said.err
    unused = "sequences.batch_size=100 train.max_epochs=2 train.validate_every=1 model.dropout=2"
    assert f"popularity_tiny: runs without {unused}, which it does not have" in said.out
    experiments = {row["experiment"] for row in read(board)["rows"]}
    assert "popularity_tiny" in experiments and "sasrec_tiny" not in experiments


def test_a_model_on_other_data_is_none_of_this_leaderboard() -> None:
    for data in DATASETS:
        configs = [named(f"{model}_{data}") for model in retrievers(data)]
        assert all((config.data, config.split) == (configs[0].data, configs[0].split) for config in configs)
    assert "glass" in retrievers("kuairec") and "glass" not in retrievers("tiny")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "datasets:"),
        (["seeds=1"], "which data set?"),
        (["beuaty"], "did you mean beauty?"),
        (["tiny", "only=sasrek"], "there is no model 'sasrek' on tiny"),
        (["tiny", "seed=2"], "a leaderboard has seeds="),
        (
            ["beauty", "data.name=Video_Games"],
            "data.name=Video_Games: a leaderboard is of the data set it is named for",
        ),
        (["tiny", "seeds=1 1"], "expected different whole numbers"),
    ],
)
def test_mistakes_are_told(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    main(arguments)
    said = capsys.readouterr()
    assert message in said.out + said.err


def test_a_data_set_has_the_generative_models_that_there_is_an_experiment_of() -> None:
    assert {"tiger", "tiger_small", "causal", "sasrec"} <= set(retrievers("beauty"))
    assert "glass" not in retrievers("beauty") and "glass" in retrievers("kuairec")


def test_beside_a_model_stand_its_own_published_figures_alone() -> None:
    shown = {}
    for data in ("beauty", "kuairec"):
        for cell in plan(Asked(data, [1], [], [])):
            shown[cell.experiment] = published(cell).get("recall@10")
    assert (shown["tiger_beauty"], shown["sasrec_bce_beauty"]) == (0.0648, 0.0605)
    for other in ("tiger_small_beauty", "causal_beauty", "sidlight_beauty", "sasrec_beauty"):
        assert shown[other] is None, other
    assert not any(value for name, value in shown.items() if name.endswith("kuairec")), "of another protocol"


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("tokenizer=lsh", "sasrec_tiny goes by item numbers and has no tokenizer"),
        ("embed.dim=8", "has no embed"),
        ("evaluation.constrained=true", "sasrec_tiny scores whole items"),
        ("evaluation.oracle_first_code=true", "sasrec_tiny scores whole items"),
        ("combined_with=[tiger_tiny]", "sasrec_tiny has no codebooks"),
        ("model.num_heads=5", "a divisor of model.width=64"),
        ("model.loss=sofmax", "softmax or sampled_softmax or binary or bpr"),
    ],
)
def test_what_a_classic_model_does_not_have(assignment: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        override(named("sasrec_tiny"), [assignment])


def test_stages_that_there_are_not(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run.main(["sasrec_tiny", "stage=tokenize", f"output_dir={tmp_path}"]) == 2
    assert "expected one of prepare, train, evaluate" in capsys.readouterr().err
    assert Pipeline(named("itemknn_tiny")).stages == ("prepare", "embed", "train", "evaluate")


def test_pretraining_that_is_killed_goes_on_as_if_it_had_not_been(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = ["s3rec_tiny", *SMALL, "model.pretraining_epochs=3", "stage=train"]
    assert run.main([*arguments, f"output_dir={tmp_path / 'whole'}"]) == 0
    begin = RetrieverModule.on_train_epoch_start

    def stop(module: Any) -> None:
        if module.pretraining and module.current_epoch == 2:
            raise KeyboardInterrupt
        begin(module)

    monkeypatch.setattr(RetrieverModule, "on_train_epoch_start", stop)
    assert run.main([*arguments, f"output_dir={tmp_path / 'killed'}"]) == 130
    monkeypatch.setattr(RetrieverModule, "on_train_epoch_start", begin)
    assert run.main([*arguments, f"output_dir={tmp_path / 'killed'}"]) == 0
    losses = []
    for output in ("whole", "killed"):
        (folder,) = (tmp_path / output / "runs" / "s3rec_tiny").glob("[!.]*")
        for name in ("pretraining.csv", "metrics.csv"):
            rows = [line.split(",") for line in (folder / name).read_text().splitlines()]
            place = rows[0].index("train/loss")
            losses.append([row[place] for row in rows[1:]])
    assert losses[:2] == losses[2:]
    assert [len(column) for column in losses] == [3, 2, 3, 2]


@given(st.lists(st.tuples(st.floats(0, 400), st.floats(0, 200)), max_size=15))
def test_labels_do_not_cover_each_other(dots: list[tuple[float, float]]) -> None:
    lifts = label_lifts(dots)
    feet = [(x, y + lift) for (x, y), lift in zip(dots, lifts, strict=True)]
    for place, (x, foot) in enumerate(feet):
        for other_x, other_foot in feet[:place]:
            assert abs(x - other_x) >= LABEL_LENGTH or abs(foot - other_foot) >= LABEL, feet
    if len(dots) == 1:
        assert lifts == pytest.approx([LABEL / 2])
