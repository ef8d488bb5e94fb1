"""N items, L levels, E examples, K ranks."""

import dataclasses
import html
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from datamodules.catalog import Catalog
from datamodules.split import Split, SplitConfig
from datamodules.synthetic import SyntheticConfig
from experiments.curves import best_epoch
from experiments.example_users import choose, example_users
from experiments.figures import codebooks, mosaic, prefixes
from experiments.inside_figures import inside, level_rows
from experiments.page import read_columns
from experiments.report import recall_error, results_table, verdict, write_report
from sid.errors import UserError
from sid.table import SIDTable

METRICS = {
    "recall@5": 0.3,
    "recall@10": 0.4,
    "ndcg@10": 0.2,
    "entropy@10": 1.25,
    "coverage@10": 0.5,
    "invalid@10": 0.01,
}
TEST = {
    "users": 60,
    "seconds": 2.0,
    "metrics": METRICS | {"prefix@1/level1": 0.5, "prefix@1/level2": 0.4, "prefix@10/level1": 0.8},
    "popularity": {"recall@10": 0.1, "ndcg@10": 0.05},
    "published": {"TIGER, Table 1": {"recall@10": 0.5, "ndcg@10": 0.3}},
}
FIGURES = {
    "collision_rate": 0.04,
    "collision_rate_resolved": 0.0,
    "largest_group": 3,
    "neighbourhood": [0.61, 0.0],
    "neighbourhood_chance": [0.125, 0.00002],
    "reconstruction": [0.55, None],
    "reconstruction_chance": [0.9, 0.8],
    "categories": [
        {
            "depth": 2,
            "labels": 4,
            "nmi": [0.7, 0.5],
            "adjusted": [0.6666, 0.1],
            "purity": [0.875, 1.0],
            "purity_chance": [0.3, 0.99],
        }
    ],
    "usage": [1.0, 0.9],
    "perplexity": [7.5, 6.1],
    "items_per_prefix": [[[9, 2], [11, 5]], [[1, 70], [2, 5]]],
}
CURVES = "epoch,step,train/loss,val/loss,val/recall@10,val/ndcg@10,val/invalid@10,val/prefix@1/level1\n"
ROWS = "0,10,3.0,3.1,0.1,0.05,0.4,0.2\n1,20,2.5,2.8,0.3,0.2,,0.4\n2,30,2.2,2.9,0.2,0.1,0.1,0.5\n"
TITLE = 'Rock &amp; Roll <script>alert("x")</script> $5$ 琴'


@dataclasses.dataclass
class Case:
    run: Path
    catalog: Catalog
    split: Split
    table: SIDTable
    tokenizer: Path

    def write(self) -> str:
        return write_report(self.run, self.catalog, self.split, self.table, self.tokenizer).read_text("utf-8")


def make(folder: Path) -> Case:
    """A run on 60 users and 80 items; even users have their target at rank 3, the others nowhere."""
    catalog = SyntheticConfig(num_users=60, num_items=80).build()
    rows = catalog.items.to_pylist()
    split = SplitConfig().build(catalog)
    target_E = catalog.item_M[split.test.target_E]
    rows[target_E[0]] |= {"title": TITLE, "category": "A & <b>"}
    rows[target_E[1]]["title"] = None
    catalog = dataclasses.replace(catalog, items=pa.Table.from_pylist(rows, schema=catalog.items.schema))
    item_N = torch.arange(80)
    table = SIDTable.resolve(torch.stack([item_N % 8, item_N // 20], dim=1), (8, 4))
    item_EK = (target_E[:, None] + np.arange(1, 13)) % 80
    item_EK[::2, 2] = target_E[::2]
    columns = {
        "user": np.repeat(split.test.user_E, 12),
        "rank": np.tile(np.arange(1, 13, dtype=np.int32), 60),
        "item": item_EK.ravel().astype(np.int32),
        "score": np.tile(-np.arange(12, dtype=np.float32), 60),
    }
    run, tokenizer = folder / "run", folder / "tokenizer"
    run.mkdir()
    tokenizer.mkdir()
    pq.write_table(pa.table(columns), run / "recommendations.parquet")
    (run / "config.yaml").write_text("name: toy_run\nseed: 7\n")
    (run / "metrics.csv").write_text(CURVES + ROWS)
    (run / "test.json").write_text(json.dumps(TEST))
    stages, raw = {"prepare": "abc123"}, {"reviews.json.gz": "f" * 64}
    environment = {"commit": "c0ffee" * 6, "dirty": True, "versions": {"torch": "2.6"}, "seed": 7, "command": "run toy"}
    (run / "environment.json").write_text(json.dumps({**environment, "stages": stages, "raw_files": raw}))
    (tokenizer / "tokenize.manifest.json").write_text(json.dumps({"figures": FIGURES}))
    (tokenizer / "metrics.csv").write_text("epoch,collision_rate,usage/level1\n0,0.3,0.5\n1,0.2,0.9\n")
    return Case(run, catalog, split, table, tokenizer)


@pytest.fixture
def case(tmp_path: Path) -> Case:
    return make(tmp_path)


class Page(HTMLParser):
    """Counts tags and collects every address and id; fails on a wrongly nested element."""

    VOID = frozenset({"meta", "br", "hr", "img", "link"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.addresses: list[str] = []
        self.ids: list[str] = []
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_startendtag(tag, attrs)
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.addresses += [value or "" for name, value in attrs if name in ("src", "href", "xlink:href")]
        self.ids += [value or "" for name, value in attrs if name == "id"]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> str:
    return make(tmp_path_factory.mktemp("report")).write()


def test_the_page_is_well_formed_and_needs_no_other_file(text: str):
    page = Page(text)
    assert not {"script", "link", "img", "iframe"} & set(page.tags)
    assert all(address.startswith("#") for address in page.addresses)
    assert {address[1:] for address in page.addresses} <= set(page.ids)
    assert not re.search(r"url\((?!#)|@import", text)


def test_every_drawing_has_a_caption_and_ids_do_not_clash(text: str):
    page = Page(text)
    assert page.tags.count("svg") == page.tags.count("figure") == page.tags.count("figcaption") >= 10
    assert len(page.ids) == len(set(page.ids))


def test_it_says_what_came_out_and_where_it_came_from(text: str):
    # 0.4 / 0.1 = 4.0; 0.4 / 0.5 = 80%
    assert "Recall@10 0.4000 on 60 test users: 4.0× popularity, 80% of the published 0.5000 (TIGER, Table 1)." in text
    for words in ("toy_run", "60 users", "c0ffee", "with local changes", "run toy", "abc123", "f" * 64, "torch 2.6"):
        assert words in text
    assert "best at epoch 1" in text
    assert "1.2500" in text and "50.0%" in text and "1.00%" in text


def test_what_was_measured_of_the_codes_stands_in_tables(text: str):
    # 80 items, 8 first codes of 9 or 11 items; of 2 codes: 70 + 5
    level_1 = ["8", "100.0%", "7.5", "7", "11", "61.0%", "12.5%", "55.0%", "90.0%"]
    level_2 = ["4", "90.0%", "6.1", "75", "2", "0.00%", "<0.01%", "–", "80.0%"]
    for row in (level_1, level_2, ["1", "0.6666", "0.7000", "87.5%", "30.0%"]):
        cells = "".join(f'<td class="n">{words}</td>' for words in row).replace("<0", "&lt;0")
        assert cells.replace('<td class="n">1</td>', "<td>1</td>") in text
    assert "Collision rate 4.00% before the extra digit, 0.00% after; at most 3 items share" in text


def test_titles_are_decoded_once_and_escaped(text: str):
    assert "Rock &amp; Roll &lt;script&gt;" in text
    assert "<script" not in text and "&amp;amp;" not in text and "A &amp; &lt;b&gt;" in text


def test_twenty_users_half_of_them_hits(case: Case):
    found = example_users(case.run / "recommendations.parquet", case.catalog, case.split.test, case.table)
    assert [example.rank for example in found].count(3) == 10 and len(found) == 20
    for example in found:
        assert 1 <= len(example.history) <= 8 and len(example.answers) == 10
        assert [shown.hit for shown in example.answers] == [rank == example.rank for rank in range(1, 11)]
        assert example.target.differs == ""
    assert found[1].target.title == found[1].target.raw_id  # it has no title


@pytest.mark.parametrize(
    ("num_hits", "num_misses", "expected"), [(9, 90, (9, 11)), (90, 3, (17, 3)), (50, 50, (10, 10)), (2, 3, (2, 3))]
)
def test_choose_fills_up_from_the_other_half(num_hits: int, num_misses: int, expected: tuple[int, int]):
    chosen = choose(np.arange(num_hits), 1000 + np.arange(num_misses), 20)
    assert (sum(user < 1000 for user in chosen), sum(user >= 1000 for user in chosen)) == expected
    assert chosen == sorted(set(chosen))


def test_a_classic_model_without_tokenizer_curves_and_published_numbers(case: Case):
    (case.run / "metrics.csv").write_text("epoch,val/recall@10\n0,\n1,0.2\n")
    (case.run / "test.json").write_text(json.dumps({"users": 60, "metrics": {"recall@10": 0.2}}))
    (case.run / "environment.json").write_text("{}")
    (case.tokenizer / "tokenize.manifest.json").write_text("{}")
    (case.tokenizer / "metrics.csv").unlink()
    text = case.write()
    assert "Recall@10 0.2000 on 60 test users." in text and "Level by level" not in text
    assert not re.search(r"\b(nan|None|inf)\b", text)
    assert sorted(path.name for path in case.run.glob("*report*")) == ["report.html"]


def test_a_pretraining_counts_and_the_test_has_a_provenance_of_its_own(case: Case):
    (case.run / "metrics.csv").write_text("epoch,seconds,val/recall@10\n0,30,\n1,60,0.2\n")
    (case.run / "pretraining.csv").write_text("epoch,seconds\n0,40\n1,80\n2,110\n")
    environment = json.loads((case.run / "environment.json").read_text())
    environment["stages"]["evaluate"] = "0ld0ld"
    (case.run / "environment.json").write_text(json.dumps(environment))
    own = {"commit": "beef" * 10, "command": "run toy again", "stages": {"evaluate": "n3wn3w"}}
    (case.run / "test.json").write_text(json.dumps({**TEST, "provenance": own}))
    text = case.write()
    assert "2 epochs logged after 3 of pretraining, 3 min" in " ".join(text.split()), "170 s"
    assert "beef" * 10 in text and "n3wn3w" in text and "0ld0ld" not in text and "c0ffee" * 6 in text


def test_codes_without_an_order_are_not_said_to_begin_alike(case: Case):
    parts = case.run, case.catalog, case.split, case.table, case.tokenizer
    assert "Green codes" in write_report(*parts).read_text("utf-8")
    page = write_report(*parts, ordered=False).read_text("utf-8")
    assert "Green codes" not in page and "Semantic IDs" in page


def test_losses_that_do_not_compare_are_told(case: Case):
    assert "the loss over whole items" not in case.write()
    with (case.run / "config.yaml").open("a") as config:
        config.write("model:\n  item_loss: 0.5\n")
    words = " ".join(html.unescape(case.write()).split())
    assert "Training's is larger by 0.5 times the loss over whole items" in words


@pytest.mark.parametrize(
    "name", ["config.yaml", "environment.json", "metrics.csv", "test.json", "recommendations.parquet"]
)
def test_a_missing_file_is_named_and_no_page_is_written(case: Case, name: str):
    (case.run / name).unlink()
    with pytest.raises(UserError, match=name):
        case.write()
    assert not (case.run / "report.html").exists()


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("metrics.csv", ""),
        ("metrics.csv", CURVES),
        ("metrics.csv", "epoch\nx\n"),
        ("test.json", "{"),
        ("test.json", "[]"),
    ],
)
def test_an_empty_or_broken_file_is_named(case: Case, name: str, content: str):
    (case.run / name).write_text(content)
    with pytest.raises(UserError, match=name):
        case.write()


def test_recommendations_of_another_catalogue_are_refused(case: Case):
    columns = {"user": [0], "rank": [1], "item": [80], "score": [0.0]}
    pq.write_table(pa.table(columns), case.run / "recommendations.parquet")
    with pytest.raises(UserError, match="another catalogue"):
        case.write()


def test_the_best_of_every_column_is_marked():
    table = results_table("ours", TEST)
    assert table["heads"] == ["Recall@5", "Recall@10", "NDCG@10"]
    assert [label for label, _, _ in table["rows"]] == ["ours", "Popularity", "TIGER, Table 1"]
    assert [[best for _, best in cells] for _, cells, _ in table["rows"]] == [
        [True, False, False],
        [False, False, False],
        [False, True, True],
    ]


def test_rows_of_another_protocol_are_shown_and_not_compared_with():
    foreign = {"GLASS (ratio > 1)": {"recall@10": 0.9, "recall@50": 0.99}}
    test = TEST | {"published": foreign | TEST["published"]}
    table = results_table("ours", test)
    assert table["foreign"] and not results_table("ours", TEST)["foreign"]
    marks = {label: [best for _, best in cells] for label, cells, _ in table["rows"]}
    assert table["heads"] == ["Recall@5", "Recall@10", "Recall@50", "NDCG@10"]
    assert marks["GLASS (ratio > 1)"] == [False] * 4
    assert marks["TIGER, Table 1"] == [False, True, False, True]
    assert "of the published 0.5000 (TIGER, Table 1)" in verdict(test)
    assert "published" not in verdict(TEST | {"published": foreign})


def test_the_verdict_stands_without_popularity():
    assert verdict({"users": 1000, "metrics": {"recall@10": 0.05}}) == "Recall@10 0.0500 on 1,000 test users."
    zero = {"users": 5, "metrics": {"recall@10": 0.0}, "popularity": {"recall@10": 0.0}}
    assert verdict(zero) == "Recall@10 0.0000 on 5 test users."


def test_empty_cells_are_no_points(tmp_path: Path):
    (tmp_path / "metrics.csv").write_text("epoch,val/ndcg@10\n0,0.1\n1,0.3\n2,\n3,0.2\n")
    assert best_epoch(read_columns(tmp_path / "metrics.csv")) == 1


def test_rare_labels_are_put_together():
    labels = ["a"] * 3 + ["b"] * 2 + ["c", "d"]
    panel = mosaic("m", "t", "c", labels, np.array([5, 5, 9, 9, 9, 9, 5]), most=2)
    assert [label for _, label in panel.legend] == ["a", "b", "2 others"]


def test_what_was_measured_inside_becomes_rows_and_drawings():
    metrics = {"in_beam/level1": 0.9, "in_beam/level2": 0.4, "accuracy/level1": 0.2, "beam_rank/level2": 3.25}
    metrics |= {"prefix@1/level1": 0.2, "gate/layer1": 0.6, "gate/found_16+": 0.7, "gate/found_1-5": 0.5}
    rows = dict(level_rows(metrics))
    assert rows["the target's beginning is in the beam"] == ["90.0%", "40.0%"]
    assert rows["its mean place there"] == ["3.2"] and rows["the best answer starts like the target"] == ["20.0%"]
    lost, gates = inside(metrics | {"search/nothing": 0.25})
    assert lost.title == "Where the target is lost" and "25.0%" in gates.caption
    assert gates.svg.index("1-5") < gates.svg.index("16+")
    assert inside({"recall@10": 0.1}) == [] and level_rows({"recall@10": 0.1}) == []


def test_the_prefix_histogram_has_bins_of_powers_of_two():
    (panel,) = prefixes([[[1, 4], [2, 1], [3, 1], [4, 1], [5, 1]]])
    assert re.findall(r">(\d+(?:–\d+)?)</text>", panel.svg) == ["1", "2", "3–4", "5–8"]


@pytest.mark.parametrize("levels", [1, 6, 7, 8, 17])
def test_codebooks_of_any_depth_are_drawn(levels: int):
    (panel,) = codebooks([1.0] * levels, [200.0] * levels, [256] * levels)
    assert "<svg" in panel.svg


def test_several_targets_a_user_are_told_and_have_no_error_over_users():
    test = {"metrics": {"recall@10": 0.1}, "users": 900, "targets": 900}
    assert recall_error(test) == pytest.approx(0.01)
    assert recall_error({**test, "targets": 1000}) is None


def test_the_same_numbers_give_the_same_drawing():
    one, two = (mosaic("m", "t", "c", ["a", "b", "b"], np.array([0, 1, 1]), most=2).svg for _ in range(2))
    assert one == two
