"""A paper's page from its command, on runs that are trained."""

import json
from pathlib import Path

import pytest

from experiments.named import named
from experiments.overrides import override
from experiments.paper import main, read
from experiments.paper_page import temperatures
from experiments.papers import PAPERS
from experiments.studies import STUDIES
from sid.errors import UserError

pytestmark = pytest.mark.usefixtures("blank_reports")
SMALL = ["data.num_users=60", "data.num_items=100", "tokenizer.epochs=1", "model.width=32", "train.max_epochs=1"]
SMALL += ["evaluation.num_beams=20", "evaluation.entropy_at=[10]", "seeds=1", "data=tiny"]


@pytest.mark.parametrize("name", PAPERS)
def test_every_part_is_a_study_with_its_rows(name: str) -> None:
    for part in PAPERS[name].parts:
        study = STUDIES[part.study]
        assert set(part.rows) <= set(study.rows) and (not part.rows or study.base in part.rows)
    labels = [part.label for part in PAPERS[name].parts]
    assert len(set(labels)) == len(labels) and not any("," in label for label in labels)


def test_a_part_is_chosen_by_what_the_paper_calls_it() -> None:
    asked = {heading: asked.on for heading, asked in read(["tiger", "only=Table 2, Figure 5"]).studies}
    chosen = {heading.partition(":")[0]: on for heading, on in asked.items() if on}
    assert chosen == {
        "Table 2": ["tiger_beauty", "tiger_sports", "tiger_toys"],
        "Figure 5": ["tiger_beauty", "itemknn_beauty"],
    }


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "which paper"),
        (["tigre"], "did you mean tiger"),
        (["tiger", "only=Table 1"], "no part 'Table 1'; expected some of: Table 9, Table 2"),
        (["tiger", "only=Table 2,"], "no part ''"),
        (["tiger", "model.num_layers=2"], "model.num_layers=2: Table 5 varies it"),
        (["tiger", "split.cold_share=0.2"], "split.cold_share=0.2: Figure 5 varies it"),
        (["tiger", "data.name=Toys"], "data.name=Toys: the data set is that of the experiments"),
        (["tiger", "data=books"], "no experiment 'tiger_books'"),
        (["tiger", "data="], "no experiment 'tiger_'"),
        (["tiger", "seed=2"], "a study has several"),
        (["tiger", "force=train"], "are for single runs"),
    ],
)
def test_a_mistake_is_told_before_anything_runs(arguments: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        read(arguments)


@pytest.mark.parametrize(
    ("experiment", "overrides", "shown"),
    [("tiger_beauty", [], True), ("tiger_beauty", ["split.kind=time"], False), ("tiger_sports", [], False)],
)
def test_published_entropies_stand_beside_beauty_alone(experiment: str, overrides: list[str], shown: bool) -> None:
    config = override(named(experiment), overrides)
    grid = temperatures({"1": {"entropy@10": 0.5, "recall@10": 0.1}}, config.published)
    assert ("published Entropy@10" in grid.heads) == shown
    assert grid.rows[0] == ["1", "0.5000", *(["0.7600"] if shown else []), "0.1000"]


def test_tables_and_figures_on_one_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    asked = ["tiger", "only=Table 9,Figure 5", *SMALL, f"output_dir={tmp_path}"]
    assert main(asked) == 0
    said = capsys.readouterr().out
    page, words = ((tmp_path / "papers/tiger" / name).read_text() for name in ("paper.html", "paper.md"))
    for heading in ("Table 9", "Figure 5", "Tables 3 and 4"):
        assert heading in said and heading in words and f"<h2>{heading}" in page
    assert "5% of test targets new: without tokenizer.epochs=1 model.width=32" in said
    for drawing in ("new-k-tiny", "new-share-tiny", "first-code", "invalid-k", "drawn-entrop"):
        assert page.count(f'id="{drawing}-figure_1"') == 1
    tables = json.loads((tmp_path / "papers/tiger/paper.json").read_text())["Figure 5: items that training never saw"]
    assert [table["experiment"] for table in tables["tables"]] == ["tiger_tiny", "itemknn_tiny"]
    figures = [json.loads(path.read_text())["metrics"] for path in sorted(tmp_path.glob("runs/*/*/test.json"))]
    measured = [one for one in figures if "new_targets" in one]
    assert len(figures) == 3 and len(measured) == 2
    assert {one["new_targets"] for one in measured} == {measured[0]["new_targets"]} != {0}
    assert all(one["new_recall@10/share0"] == 0 for one in measured)
    assert main(asked) == 0
    assert "working in" not in capsys.readouterr().out
