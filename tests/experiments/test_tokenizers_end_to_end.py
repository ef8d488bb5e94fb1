"""Every tokenizer by its name on the command line, and experiments that share their codebooks. Legend: N items."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import yaml

from datamodules.embed import ENCODERS, whitened
from datamodules.split import learnt_counts
from experiments import tokenize as tokenizing
from experiments.config import TOKENIZERS, to_yaml
from experiments.named import named, tiger_tiny
from experiments.overrides import override
from experiments.pipeline import Pipeline
from experiments.run import run
from experiments.stages import Stage
from sid.configs import SIZES, ResidualKMeansConfig
from sid.errors import UserError
from sid.table import SIDTable
from sid.vectors import centred

pytestmark = pytest.mark.usefixtures("blank_reports")
SMALL = [
    "data.num_users=60",
    "data.num_items=40",
    "data.num_categories=4",
    "data.mean_length=8",
    "embed.dim=16",
    "tokenizer.seed=3",
    "tokenizer.codebook_sizes=[8,8]",
    "stage=tokenize",
]
OWN = {
    "rqvae": ["tokenizer.epochs=2"],
    "vqvae": ["tokenizer.epochs=2", "tokenizer.codebook_sizes=[16]"],
    "letter": ["tokenizer.epochs=2"],
    "opq": ["tokenizer.codebook_sizes=[8,8,8,8]"],
}


@pytest.fixture(scope="module")
def output(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("tokenizers")


@pytest.fixture(scope="module")
def vectors(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Vectors by raw id for the items of all tiny experiments."""
    path = tmp_path_factory.mktemp("vectors") / "vectors.parquet"
    vectors_ND = np.random.default_rng(0).normal(size=(600, 8)).astype(np.float32)
    pq.write_table(pa.table({"item": [f"item{n:06}" for n in range(600)], "vector": list(vectors_ND)}), path)
    return str(path)


@pytest.mark.parametrize("name", TOKENIZERS)
def test_every_tokenizer_leaves_a_table_in_a_folder_of_its_own(name: str, output: Path) -> None:
    pipeline = run(["tiger_tiny", f"tokenizer={name}", *SMALL, *OWN.get(name, []), f"output_dir={output}"])
    table, config = SIDTable.load(pipeline.tokenize.folder), pipeline.config.tokenizer
    assert (type(config), config.seed) == (TOKENIZERS[name], 3)
    assert (table.num_items, table.codebook_sizes[:-1]) == (40, tuple(config.codebook_sizes))
    assert table.catalog == pipeline.prepare.hash
    assert len((pipeline.tokenize.folder / "sids.tsv").read_text().splitlines()) == 41
    manifests = [json.loads(path.read_text()) for path in output.glob("artifacts/tokenize/*/tokenize.manifest.json")]
    kinds = [manifest["inputs"]["kind"] for manifest in manifests]
    assert TOKENIZERS[name].__name__ in kinds and len(kinds) == len(set(kinds))


def test_items_told_apart_by_their_codes_have_no_digit_that_a_retriever_must_learn(output: Path) -> None:
    sizes = ["tokenizer=rqkmeans", "tokenizer.codebook_sizes=[8,40]"]
    whole = ["stage=evaluate", "train.max_epochs=1", f"output_dir={output / 'told apart'}"]
    pipeline = run(["tiger_tiny", *SMALL, *sizes, "tokenizer.reassign=true", *whole])
    assert pipeline.codes is not None and pipeline.codes.codebook_sizes == (8, 40) and not pipeline.codes.digit
    assert (pipeline.evaluate.folder / "test.json").is_file()
    with_digit = run(["tiger_tiny", *SMALL, *sizes, f"output_dir={output / 'told apart'}"])
    assert with_digit.codes is not None and with_digit.codes.codebook_sizes[:-1] == (8, 40) and with_digit.codes.digit


def test_tokenizers_are_fitted_without_new_items_which_come_behind_the_others_of_their_codes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fitted: list[torch.Tensor] = []
    monkeypatch.setattr(ResidualKMeansConfig, "fit", lambda config, vectors_ND, context: fitted.append(vectors_ND))
    monkeypatch.setattr(
        tokenizing, "assign", lambda tokenizer, vectors_ND, device: torch.zeros(len(vectors_ND), 2).long()
    )
    pipeline = run(["tiger_tiny", *SMALL, "tokenizer=rqkmeans", "split.cold_share=0.2", f"output_dir={tmp_path}"])
    new_N = torch.from_numpy(learnt_counts(pipeline.catalog, pipeline.split) == 0)
    assert 0 < new_N.sum() < len(new_N)
    vectors_ND = torch.from_numpy(pipeline._vectors().astype("float32"))
    assert torch.equal(fitted[0], vectors_ND[~new_N])
    digit_N = pipeline.table.codes_NL[:, -1]
    assert digit_N[~new_N].max() < digit_N[new_N].min()


def test_only_a_tokenizer_that_reads_events_depends_on_the_split() -> None:
    def folders(tokenizer: str) -> set[str]:
        splits = ("split.kind=leave_one_out", "split.kind=time")
        return {Pipeline(override(tiger_tiny.config(), [tokenizer, split])).tokenize.hash for split in splits}

    assert (len(folders("tokenizer=letter")), len(folders("tokenizer=rqvae"))) == (2, 1)


@pytest.mark.parametrize("name", TOKENIZERS)
def test_a_tokenizer_by_name_keeps_seed_sample_and_sizes_unless_it_has_sizes_of_its_own(name: str) -> None:
    old = ResidualKMeansConfig([8, 4, 16], sample=90, seed=4, balanced=True)
    config = override(replace(tiger_tiny.config(), tokenizer=old), [f"tokenizer={name}"])
    own = {"vqvae": [1024], "opq": [256] * 16}
    assert config.tokenizer.codebook_sizes == own.get(name, [8, 4, 16])
    assert (config.tokenizer.seed, config.tokenizer.sample) == (4, 90)
    assert (config.tokenizer == old) == (name == "rqkmeans"), "the kind that it is already stays as it is"
    assert yaml.safe_load(to_yaml(config))["tokenizer"]["kind"] == TOKENIZERS[name].__name__


@pytest.mark.parametrize("old", ["vqvae", "opq"])
def test_sizes_that_a_kind_has_of_its_own_do_not_pass_to_another(old: str) -> None:
    def sizes(*assignments: str) -> list[int]:
        config = replace(tiger_tiny.config(), tokenizer=TOKENIZERS[old]())
        return override(config, list(assignments)).tokenizer.codebook_sizes

    assert sizes("tokenizer=rqkmeans") == list(SIZES)
    assert sizes("tokenizer=rqkmeans", "tokenizer.codebook_sizes=[4,4]") == [4, 4]


def test_items_told_apart_stay_so_where_the_next_tokenizer_can() -> None:
    config = replace(tiger_tiny.config(), tokenizer=ResidualKMeansConfig([8, 8], reassign=True))
    kept = [name for name in TOKENIZERS if override(config, [f"tokenizer={name}"]).tokenizer.reassign]
    assert kept == ["rqvae", "vqvae", "letter", "rqkmeans", "opq"]


def test_keys_of_the_chosen_tokenizer_may_come_in_any_order() -> None:
    config = override(tiger_tiny.config(), ["tokenizer.balanced=true", "tokenizer=rqkmeans", "tokenizer.seed=5"])
    assert config.tokenizer == ResidualKMeansConfig([16, 16, 16], seed=5, balanced=True)
    with pytest.raises(UserError, match="unknown key 'tokenizer.epochs'"):
        override(tiger_tiny.config(), ["tokenizer=rqkmeans", "tokenizer.epochs=3"])


@pytest.mark.parametrize(
    ("assignments", "message"),
    [
        (["tokenizer=rqkmean"], "tokenizer=rqkmean: there is no such tokenizer; did you mean rqkmeans?"),
        (["tokenizer=what"], "tokenizer=what: there is no such tokenizer (there are rqvae, vqvae, "),
        (["combined_with=[causal_tny]"], "there is no experiment 'causal_tny'; did you mean causal_tiny?"),
        (["combined_with=[causal_tiny]", "tokenizer=letter"], "combined_with=['causal_tiny']: expected none: this"),
        (["combined_with=[causal_tiny,causal_tiny]"], "combined_with=['causal_tiny', 'causal_tiny']: expected every"),
        (["tokenizer=tree", "tokenizer.reassign=true"], "tokenizer.reassign=True: expected false: of the tokenizers, "),
        (["tokenizer=tree", "tokenizer.reassign=true"], "rqvae, vqvae, letter, rqkmeans, opq have distances to"),
        (
            ["split.cold_share=0.1", "tokenizer.reassign=true"],
            "reassign=True: expected false with split.cold_share",
        ),
        (["embed.whiten=-1"], "embed.whiten=-1: expected at least 0"),
        (["embed=minilm"], "embed=minilm: it has settings, embed.encoder, embed.path, embed.dim"),
        (["tokenizer=lsh", "tokenizer.codebook_sizes=[6]"], "tokenizer.codebook_sizes=[6]: expected powers of two"),
    ],
)
def test_what_cannot_be_chosen_is_named(assignments: list[str], message: str) -> None:
    with pytest.raises(UserError) as error:
        override(tiger_tiny.config(), assignments)
    assert message in str(error.value)


def test_experiments_that_are_combined_share_one_table_and_each_has_its_own_items(output: Path, vectors: str) -> None:
    """tiger_tiny has 200 items, glass_tiny 576; the first 200 raw ids, hence vectors, are the same."""
    fitted = ["tokenizer=rqkmeans", "tokenizer.codebook_sizes=[16,8]", "embed.encoder=file", f"embed.path={vectors}"]
    tables, folders = {}, set()
    for name, others in (("tiger_tiny", "glass_tiny"), ("glass_tiny", "tiger_tiny"), ("tiger_tiny", "")):
        pipeline = run([name, *fitted, f"combined_with=[{others}]", "stage=tokenize", f"output_dir={output}"])
        tables[name, others] = pipeline.table
        folders.add(pipeline.tokenize.folder)
    tiger, glass, alone = tables.values()
    assert (tiger.num_items, glass.num_items, alone.num_items) == (200, 576, 200)
    assert torch.equal(tiger.codes_NL[:, :2], glass.codes_NL[:200, :2])
    assert tiger.codebook_sizes == glass.codebook_sizes
    assert len(torch.cat([tiger.codes_NL, glass.codes_NL]).unique(dim=0)) == 776, "every row of the whole is different"
    assert not torch.equal(tiger.codes_NL[:, :2], alone.codes_NL[:, :2])
    assert len(folders) == 3


def test_vectors_of_two_spaces_are_not_combined(output: Path, vectors: str) -> None:
    combined = ["tiger_tiny", *SMALL[:-1], "tokenizer=random", "combined_with=[causal_tiny]", "stage=tokenize"]
    given = ["file", f"embed.path={vectors}"]
    fitted = ["tfidf", "embed.whiten=0"], [*given, "embed.whiten=4"], [*given, "embed.collaborative=1"]
    for encoder, *more in fitted:
        with pytest.raises(UserError, match="every catalogue has a vector space of its own.*choose vectors"):
            run([*combined, f"embed.encoder={encoder}", *more, f"output_dir={output}"])


def test_items_that_meet_themselves_are_not_combined(output: Path, vectors: str) -> None:
    for others in ("causal_tiny", "tiger_tiny", "glass_tiny,causal_tiny"):
        with pytest.raises(UserError, match="of tiger_tiny, .*two have the same items and vectors, which would count"):
            run(
                [
                    "tiger_tiny",
                    "tokenizer=random",
                    "embed.encoder=file",
                    f"embed.path={vectors}",
                    f"combined_with=[{others}]",
                    "stage=tokenize",
                    f"output_dir={output}",
                ]
            )


def test_whitening_gives_other_vectors_of_those_once_encoded_and_none_leaves_the_folder_as_it_was(
    output: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def embed(*overrides: str) -> Stage:
        return run(["tiger_tiny", *SMALL, *overrides, "stage=embed", f"output_dir={output}"]).embed

    plain = embed("embed.whiten=0")
    monkeypatch.setitem(ENCODERS, "tfidf", lambda *_: pytest.fail("texts were encoded again"))
    white, both = embed("embed.whiten=5"), embed("embed.whiten=5", "embed.collaborative=1")
    assert plain.hash != white.hash
    assert "whiten" not in plain.inputs["embed"] and white.inputs["embed"]["whiten"] == 5
    white_NC = np.load(white.folder / "vectors.npy")
    np.testing.assert_array_equal(white_NC, whitened(np.load(plain.folder / "vectors.npy"), 5))
    unit_NC = torch.nn.functional.normalize(centred(white_NC), dim=1)
    np.testing.assert_array_equal(np.load(both.folder / "vectors.npy")[:, :5], unit_NC)


@pytest.mark.parametrize(
    ("keys", "balances"),
    [
        (["tokenizer=rqkmeans"], False),
        (["tokenizer=rqkmeans", "tokenizer.balanced=true"], True),
        (["tokenizer=letter"], True),
        (["tokenizer=rqvae"], False),
    ],
)
def test_codes_of_balanced_clusters_are_made_again(keys: list[str], balances: bool) -> None:
    assert ("balance" in Pipeline(override(named("causal_tiny"), keys)).tokenize.inputs) == balances
