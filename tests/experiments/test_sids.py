"""The page of semantic IDs, from its command to its figures."""

import json
import re
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pytest
import torch

from experiments.page import count, number, share
from experiments.sids import main, read
from experiments.sids_page import environment
from experiments.sids_tables import Diagnosed, known
from experiments.tokenize import category_levels
from sid.table import SIDTable
from tests.experiments.test_report import Page

SMALL = [
    "data.num_users=60",
    "data.num_items=80",
    "data.num_categories=4",
    "data.mean_length=8",
    "embed.dim=16",
    "tokenizer=rqkmeans",
    "tokenizer.codebook_sizes=[8,6]",
]


def command(output: Path, *more: str) -> list[str]:
    return ["causal_tiny", *SMALL, f"output_dir={output}", *more]


def figures(output: Path, kind: str) -> dict[str, Any]:
    """Of the tokenize stage of a kind of tokenizer."""
    manifests = (json.loads(path.read_text()) for path in output.glob("artifacts/tokenize/*/tokenize.manifest.json"))
    (found,) = (manifest["figures"] for manifest in manifests if manifest["inputs"]["kind"] == kind)
    return found


def grids(page: str) -> list[list[list[str]]]:
    """Cells of the tables of figures, without their heads; what is empty as above stands there again."""
    tables = []
    for table in re.findall(r'<table class="grid">.*?</table>', page, flags=re.DOTALL):
        rows = [re.findall(r"<t[hd][^>]*>([^<]*)</t[hd]>", row) for row in re.findall(r"<tr>.*?</tr>", table)[1:]]
        for above, row in pairwise(rows):
            row[:] = [words or before for words, before in zip(row, above, strict=True)]
        tables.append([[words.replace("&lt;", "<") for words in row] for row in rows])
    return tables


def level(found: dict[str, Any], place: int) -> list[str]:
    """What a row of the first table must say from the codebook size on."""
    held = found["items_per_prefix"][place]
    cells = [count(found["codebook_sizes"][place]), share(found["usage"][place]), f"{found['perplexity'][place]:.1f}"]
    cells += [count(sum(n for _, n in held)), count(held[-1][0])]
    return [*cells, *(share(found[key][place]) for key in ("neighbourhood", "neighbourhood_chance")),
            *(share(found[key][place]) for key in ("reconstruction", "reconstruction_chance"))]  # fmt: skip


def category(found: dict[str, Any], depth: int, place: int) -> list[str]:
    one = found["categories"][depth]
    return [number(one["adjusted"][place]), number(one["nmi"][place])] + [
        share(one[key][place]) for key in ("purity", "purity_chance")
    ]


@pytest.fixture(scope="module")
def output(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("sids")


@pytest.fixture(scope="module")
def alone(output: Path) -> str:
    assert main(command(output)) == 0
    return (output / "sids" / "causal_tiny" / "sids.html").read_text()


def test_one_table_is_a_page_that_needs_no_other_file_and_says_what_was_measured(output: Path, alone: str) -> None:
    page = Page(alone)
    assert not {"script", "link", "img", "iframe"} & set(page.tags)
    assert all(address.startswith("#") for address in page.addresses)
    assert len(page.ids) == len(set(page.ids))
    assert page.tags.count("svg") == page.tags.count("figcaption") == 7
    found = figures(output, "ResidualKMeansConfig")
    levels, categories = grids(alone)
    assert levels == [
        ["1", *level(found, 0)],
        ["2", *level(found, 1)],
        ["digit", str(found["largest_group"]), *["–"] * 8],
    ]
    assert categories == [
        [labels, str(place + 1), *category(found, depth, place)]
        for depth, labels in enumerate(("4", "16"))
        for place in (0, 1)
    ]
    assert f"Collision rate {share(found['collision_rate'])} before" in alone
    for words in ("rqkmeans 8·6", "experiments.sids causal_tiny", "codebook_sizes:", "Stage tokenize"):
        assert words in alone, words
    assert not re.search(r"\b(nan|None|inf)\b", re.sub(r"<svg.*?</svg>|<pre>.*?</pre>", "", alone, flags=re.DOTALL))


def test_a_table_without_a_digit_has_no_row_of_one(output: Path, capsys: pytest.CaptureFixture[str]) -> None:
    told_apart = ["tokenizer.reassign=true", "tokenizer.codebook_sizes=[8,64]"]
    assert main(command(output, *told_apart, f"output_dir={output / 'told apart'}")) == 0
    text = (output / "told apart" / "sids" / "causal_tiny" / "sids.html").read_text()
    levels, _ = grids(text)
    assert [row[:2] for row in levels] == [["1", "8"], ["2", "64"]] and "–" not in levels[1]
    assert "Collision rate 0.00%, and no extra digit." in text


def test_the_first_rows_are_items_with_their_codes(output: Path, alone: str) -> None:
    (exported,) = output.glob("artifacts/tokenize/*/sids.tsv")
    rows = [line.split("\t") for line in exported.read_text().splitlines()[1:21]]
    listed = alone[alone.index('id="items"') : alone.index('id="provenance"')]
    codes = re.findall(r"<code><b>([^/]*)</b>([^/]*)</code>", listed)
    assert [(agrees + differs).replace("&lt;", "<").replace("&gt;", ">") for agrees, differs in codes] == [
        sid for _, _, sid, _ in rows
    ]
    assert codes[0][0] == ""
    assert all(raw in listed for _, raw, _, _ in rows)


def test_two_tables_stand_side_by_side(output: Path, alone: str, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    assert main(command(output, "against=tokenizer=random tokenizer.codebook_sizes=[8,6,4]")) == 0
    said = capsys.readouterr().out
    assert said.count(": reused ") == 5 and "working in" in said
    text = (output / "sids" / "causal_tiny" / "sids.html").read_text()
    page = Page(text)
    assert len(page.ids) == len(set(page.ids))
    assert page.tags.count("svg") == page.tags.count("figcaption") == 12
    ours, theirs = figures(output, "ResidualKMeansConfig"), figures(output, "ChanceConfig")
    levels, categories = grids(text)
    kmeans, random = "rqkmeans 8·6", "random 8·6·4"
    assert [row[:2] for row in levels] == [
        *(["1", kmeans], ["1", random], ["2", kmeans], ["2", random], ["digit", kmeans], ["3", random]),
        ["digit", random],
    ]
    assert [row[2:] for row in levels[:4]] == [level(one, place) for place in (0, 1) for one in (ours, theirs)]
    for depth in (0, 1):
        assert [row[3:] for row in categories[5 * depth :][:5]] == [
            *(category(one, depth, place) for place in (0, 1) for one in (ours, theirs)),
            category(theirs, depth, 2),
        ]
    assert theirs["neighbourhood"][0] < ours["neighbourhood"][0]
    for words in (*levels[0], *categories[0], *categories[-1], "How much the two agree"):
        assert words in said


def test_an_experiment_can_be_compared_with_another(output: Path, alone: str) -> None:
    other = (
        "against=glass_tiny data.num_users=40 data.series=3 embed.dim=8 tokenizer=lsh tokenizer.codebook_sizes=[8,4]"
    )
    assert main(command(output, other)) == 0
    text = (output / "sids" / "causal_tiny" / "sids.html").read_text()
    assert "causal_tiny rqkmeans 8·6 against glass_tiny lsh 8·4" in text
    assert "How much the two agree" not in text  # they have no item in common
    Page(text)


def test_a_table_that_was_measured_by_an_older_version_is_measured_again(
    output: Path, alone: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (manifest,) = (
        path
        for path in output.glob("artifacts/tokenize/*/tokenize.manifest.json")
        if json.loads(path.read_text())["inputs"]["kind"] == "ResidualKMeansConfig"
    )
    whole = manifest.read_text()
    content = json.loads(whole)
    content["figures"] = {"codebook_sizes": content["figures"]["codebook_sizes"]}
    manifest.write_text(json.dumps(content))
    try:
        assert main(command(output)) == 0
    finally:
        manifest.write_text(whole)
    assert "measuring" in capsys.readouterr().out
    again = (output / "sids" / "causal_tiny" / "sids.html").read_text()
    assert grids(again) == grids(alone)


def test_tables_of_one_kind_are_told_apart_by_what_was_changed() -> None:
    (ours, _), (theirs, config) = read(["causal_tiny", "tokenizer=lsh", "against=tokenizer.seed=7"])
    assert (ours, theirs) == ("lsh 3×16", "lsh 3×16, tokenizer.seed=7")
    assert config.tokenizer.seed == 7
    (ours, _), (theirs, config) = read(["causal_tiny", "tokenizer.seed=2", "output_dir=x", "against=causal_tiny"])
    assert (ours, theirs) == ("rqvae 3×16, tokenizer.seed=2", "rqvae 3×16")
    assert (config.tokenizer.seed, config.output_dir) == (1, "x")


def fabricated(label: str, catalog: str, raw_files: dict[str, str]) -> tuple[Diagnosed, Any]:
    """A table with one depth of four categories, and what stands in for its pipeline."""
    scores = {name: [0.5] for name in ("adjusted", "nmi", "purity", "purity_chance")}
    table = SIDTable(torch.tensor([[0, 0], [1, 0]]), (2, 1), catalog, digit=True)
    stage = SimpleNamespace(name="prepare", hash=catalog)
    found: Any = {"categories": [{"depth": 1, "labels": 4, **scores}]}
    stages = {"prepare": stage, "embed": stage, "tokenize": stage}
    nothing: Any = None
    return Diagnosed(label, table, found, nothing), SimpleNamespace(raw_files=raw_files, **stages)


def test_only_tables_of_one_catalogue_stand_together_however_alike_their_categories() -> None:
    tables = [fabricated(label, catalog, {})[0] for label, catalog in (("a", "one"), ("b", "two"), ("c", "one"))]
    together, alone = known(tables)
    assert [row[2] for row in together.rows] == ["a", "c"] and "semantic IDs" not in alone.heads
    assert together.title.endswith("a") and alone.title.endswith("b")


def test_raw_files_of_one_name_and_other_contents_are_both_listed() -> None:
    pairs = [fabricated("a", "one", {"x.zip": "f00d", "y": "1"}), fabricated("b", "two", {"x.zip": "beef", "y": "1"})]
    assert environment(pairs, "")["raw_files"] == {"x.zip": "f00d", "y": "1", "x.zip of b": "beef"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["causal_tny"], "there is no experiment 'causal_tny'; did you mean causal_tiny?"),
        (["against=tokenizer=lsh"], "which experiment?"),
        (["causal_tiny", "tokenizer.deepness=2"], "unknown key 'tokenizer.deepness'"),
        (["causal_tiny", "stage=train"], "stage= and force= are for single runs"),
        (["causal_tiny", "against=tokenizer=ls"], "tokenizer=ls: there is no such tokenizer"),
        (["causal_tiny", "against=tiger_tny"], "there is no experiment 'tiger_tny'"),
        (["causal_tiny", "against=tiger_tiny glass_tiny"], "one experiment at most"),
        (["causal_tiny", "against="], "against= names nothing"),
        (["causal_tiny", 'against="tokenizer=lsh'], "No closing quotation"),
        (["causal_tiny", "against=a=1", "against=b=1"], "against= is there twice"),
        (["causal_tiny", "against=seed=2"], "both tables are the same"),
        (["causal_tiny", "against=causal_tiny"], "both tables are the same"),
    ],
)
def test_a_mistake_is_one_line_without_a_traceback(
    arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*arguments, f"output_dir={tmp_path}"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert message in error


def test_a_page_that_cannot_be_written_is_an_error(
    output: Path, alone: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "artifacts").symlink_to(output / "artifacts")
    (tmp_path / "sids").write_text("in the way")
    assert main(command(tmp_path)) == 2
    assert "sids" in capsys.readouterr().err


def test_category_levels_are_beginnings_of_paths() -> None:
    paths = [["A", "B", "x"], ["A", "B", "y"], ["A", "C"], ["A", "C", "x"], []]
    items = pa.table({"categories": pa.array(paths, pa.list_(pa.string())), "category": ["-"] * 5})
    found = {depth: label_N.tolist() for depth, label_N in category_levels(items).items()}
    assert found == {1: [0, 0, 0, 0, 1], 2: [0, 0, 1, 1, 2], 3: [0, 1, 2, 3, 4]}
    flat = pa.table({"categories": pa.array([[], [], []], pa.list_(pa.string())), "category": ["b", "a", "b"]})
    assert {depth: label_N.tolist() for depth, label_N in category_levels(flat).items()} == {1: [0, 1, 0]}
    assert category_levels(flat.set_column(1, "category", pa.array(["a"] * 3))) == {}
