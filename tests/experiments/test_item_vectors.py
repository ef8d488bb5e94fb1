"""The stage embed with who chose what beside the content, from the command line. Legend: N items, D and E widths, C
collaborative width."""

from pathlib import Path

import numpy as np
import pytest

from datamodules.collaborative import cooccurrence, joined
from experiments.run import run

SMALL = ["data.num_users=60", "data.num_items=40", "data.num_categories=4", "data.mean_length=8", "embed.dim=16"]


def command(output: Path, *more: str) -> list[str]:
    return ["tiger_tiny", *SMALL, f"output_dir={output}", "stage=embed", *more]


def test_vectors_of_who_chose_what_are_appended_to_the_contents_and_belong_to_a_split(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content = run(command(tmp_path))
    capsys.readouterr()
    both = run([*command(tmp_path), "embed.collaborative=0.5"])
    assert f"embed: reused {content.embed.folder}" in capsys.readouterr().out
    learnt = run([*command(tmp_path), "embed.collaborative=0.5", "split.learn_validation=true"])
    vectors_ND, both_NE, learnt_NE = (np.load(each.embed.folder / "vectors.npy") for each in (content, both, learnt))
    expected_NC = cooccurrence(both.catalog, both.split)
    np.testing.assert_array_equal(both_NE, joined(vectors_ND, expected_NC, 0.5))
    assert both.figures["embed"] == {"items": 40, "width": vectors_ND.shape[1] + 40}
    assert not np.array_equal(learnt_NE, both_NE) and learnt.embed.hash != both.embed.hash


@pytest.mark.parametrize("stage", ["prepare", "embed"])
def test_rebuilding_reaches_the_content_below_who_chose_what(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], stage: str
) -> None:
    asked = [*command(tmp_path), "embed.collaborative=0.5"]
    both_NE = np.load(run(asked).embed.folder / "vectors.npy")
    content = run(command(tmp_path)).embed.folder
    (content / "vectors.npy").write_bytes(b"damaged")
    capsys.readouterr()
    np.testing.assert_array_equal(np.load(run([*asked, f"force={stage}"]).embed.folder / "vectors.npy"), both_NE)
    assert f"embed: working in {content}" in capsys.readouterr().out
    assert len(np.load(content / "vectors.npy")) == 40


def test_items_that_nobody_has_seen_have_nothing_of_who_chose_what(tmp_path: Path) -> None:
    pipeline = run([*command(tmp_path), "embed.collaborative=0.5", "split.cold_share=0.2"])
    chosen_NC = np.load(pipeline.embed.folder / "vectors.npy")[:, -40:]
    new_N = pipeline.new_items()
    assert new_N.sum() > 2 and (chosen_NC[new_N] == 0).all()
    assert (np.linalg.norm(chosen_NC[~new_N], axis=1) > 0.49).mean() > 0.9
