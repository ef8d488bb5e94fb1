"""The parts of a study without faked runs: the rows that it plans, the one training that two rows share, and its table
by history length. Legend: E examples."""

import itertools
import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from datamodules.split import SplitConfig
from datamodules.synthetic import SyntheticConfig
from experiments import pipeline
from experiments.config import as_trained, asked_at_test, to_yaml
from experiments.named import glass_tiny, named
from experiments.overrides import override
from experiments.paired import Scores, history_lengths
from experiments.studies import PLAIN, STUDIES
from experiments.study import main, read
from experiments.study_page import sections, sids_words
from experiments.study_plan import command as single
from experiments.study_plan import plan
from experiments.study_table import Row, Summary, Table, by_length, sids
from tests.experiments.faked_study import ORACLE, WHOLE, command, glass

pytestmark = pytest.mark.usefixtures("blank_reports")


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


@pytest.mark.parametrize("name", [name for name in STUDIES if name not in ("tokenizers", "codebooks", "tiger_cold")])
def test_a_base_that_is_spelt_out_is_what_the_experiment_does(name: str) -> None:
    study = STUDIES[name]
    for experiment in study.experiments:
        config = override(named(experiment), study.overrides(study.base, experiment) or [])
        assert config == named(experiment)


def test_a_row_goes_without_what_its_encoder_does_not_read() -> None:
    cells = plan(read(["tokenizers", "on=causal_beauty", "seeds=1", "embed.dim=64"]), str)
    assert {cell.row: (cell.left_out, cell.problems) for cell in cells}["TF-IDF vectors"] == ([], {})
    others = [cell for cell in cells if cell.row != "TF-IDF vectors"]
    assert all(cell.left_out == ["embed.dim=64"] and not cell.problems for cell in others)


def test_published_figures_stand_beside_a_row_of_their_protocol_alone() -> None:
    def printed(*overrides: str) -> list[float | None]:
        cells = plan(read(["tokenizers_tiger", "seeds=1", "on=tiger_beauty", *overrides]), print)
        return [cell.published.get("recall@10") for cell in cells if cell.asked]

    for same in ("train.max_epochs=3", "data.data_dir=/elsewhere"):
        assert printed(same) == [0.0648, 0.0533, 0.0434]
    for other in ("split.kind=time", "split.cold_share=0.05", "data.min_count=10", "evaluation.oracle_first_code=true"):
        assert printed(other) == [None] * 3


def test_a_seed_is_the_tokenizers_too_where_the_study_says_so() -> None:
    asked = read(["tokenizers", "seeds=2", "only=tree", "on=causal_tiny"])
    (base, tree) = [cell for cell in plan(asked, print) if cell.asked]
    assert (tree.configs[2].seed, tree.configs[2].tokenizer.seed) == (2, 2)
    assert tree.overrides == ["embed.collaborative=0", "tokenizer=tree"]
    words = "python -m experiments.run causal_tiny embed.collaborative=0 tokenizer=tree seed=2 tokenizer.seed=2"
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


def test_a_trained_model_is_asked_twice_and_a_lost_file_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
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


@pytest.mark.parametrize(("digit", "words"), [(True, "2x16 + 1"), (False, "2x16")])
def test_codes_are_told_with_the_digit_where_there_is_one(digit: bool, words: str) -> None:
    sizes = [16, 16, 1] if digit else [16, 16]
    figures = {"codebook_sizes": sizes, "digit": digit, "largest_group": 1, "collision_rate": 0.0, "usage": [1.0, 0.5]}
    assert sids_words(sids([figures]))["codes"] == words
    if digit:
        assert sids_words(sids([{name: value for name, value in figures.items() if name != "digit"}]))["codes"] == words
