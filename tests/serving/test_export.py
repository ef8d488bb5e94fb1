"""A bundle is the run that it is of, whole or refused; so are the programs beside it. Legend: B histories, T items."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import T5ForConditionalGeneration

from experiments import export
from experiments.deploy import bundle_of, recommender
from experiments.named import named
from experiments.pipeline import Pipeline
from experiments.results import older_code
from experiments.run import run
from experiments.stages import VERSIONS
from models.hugging_face import t5_config
from models.tiger import Tiger
from serving.bundle import Bundle
from serving.recommender import Question, Recommender
from serving.scorer import SCORER, scorer
from sid.errors import UserError
from tests.serving.programs import check_program
from tests.serving.trained import MODELS, SHORT, SMALL, asked


def test_a_tiger_that_copies_exports_with_its_program_and_without_a_t5(runs: dict[str, Path], tmp_path: Path) -> None:
    done = run(["tiger_tiny", *SMALL, *SHORT, "model.copies=true", f"output_dir={runs['tiger_tiny'].parents[2]}"])
    out = tmp_path / "bundle"
    assert export.main([str(done.train.folder), str(out), "scorer=true"]) == 0
    assert not (out / "hugging_face").exists()
    ready = Recommender.load(out)
    copied, trained = (bundle.model.copying.state_dict() for bundle in (ready.bundle, bundle_of(done.train.folder)))
    assert copied["more"].any() and all(torch.equal(number_L, trained[name]) for name, number_L in copied.items())
    histories = asked(ready)[0][:4]
    lists, tokens_BS = ready.answer(histories, Question(k=3)).lists, ready.batch(histories).tokens_BS
    assert lists.codes_BKL is not None
    logp_BL = torch.export.load(out / SCORER).module()(tokens_BS, lists.codes_BKL[:, 0].clone())
    assert ready.bundle.card.constrained or torch.allclose(logp_BL.sum(1), lists.scores_BK[:, 0], atol=1e-4)


@pytest.mark.parametrize("name", [name for name in MODELS if name != "glass_tiny"])
def test_the_exported_program_scores_as_the_model(name: str, bundles: dict[str, Path]) -> None:
    bundle = Bundle.load(bundles[name])
    check_program(bundles[name], bundle, bundle.items.num_rows, [(1, 1), (1, 2), (4, 9), (2, 20)])


def test_scores_of_the_program_are_those_of_the_beams(bundles: dict[str, Path]) -> None:
    ready = Recommender.load(bundles["causal_tiny"])
    histories = asked(ready)[0][:4]
    found = ready.answer(histories, Question(k=3)).lists
    batch, module = ready.batch(histories), scorer(ready.bundle)
    assert found.codes_BKL is not None
    with torch.no_grad():
        logp_BL = module(batch.tokens_BS, found.codes_BKL[:, 0])
    if not ready.bundle.card.constrained:
        assert torch.allclose(logp_BL.sum(1), found.scores_BK[:, 0], atol=1e-4)


def test_hugging_face_and_back(bundles: dict[str, Path]) -> None:
    from models.hugging_face import from_hugging_face

    model, back = Bundle.load(bundles["tiger_tiny"]).model, from_hugging_face(bundles["tiger_tiny"] / "hugging_face")
    assert isinstance(model, Tiger) and back.tokens == model.tokens
    assert {n: w.tolist() for n, w in back.state_dict().items()} == {
        n: w.tolist() for n, w in model.state_dict().items()
    }
    with pytest.raises(UserError, match="config.json"):
        from_hugging_face(bundles["sasrec_tiny"])


def test_a_hugging_face_folder_that_is_not_whole(bundles: dict[str, Path], tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    from models.hugging_face import from_hugging_face

    copy = tmp_path / "copy"
    shutil.copytree(bundles["tiger_tiny"] / "hugging_face", copy)
    weights = load_file(copy / "model.safetensors")
    lacking = {name: weight for name, weight in weights.items() if "encoder.block.0.layer.1" not in name}
    save_file(lacking, copy / "model.safetensors", {"format": "pt"})
    with pytest.raises(UserError, match="weights are missing"):
        from_hugging_face(copy)
    (copy / "model.safetensors").write_bytes((copy / "model.safetensors").read_bytes()[:999])
    with pytest.raises(UserError, match="no whole T5"):
        from_hugging_face(copy)
    (copy / "config.json").write_text("{")
    with pytest.raises(UserError, match="no whole T5"):
        from_hugging_face(copy)


def test_exports_are_whole_or_refused(
    runs: dict[str, Path], bundles: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_folder, bundle = str(runs["sasrec_tiny"]), bundles["sasrec_tiny"]
    assert export.main([run_folder, str(bundle)]) == 2
    assert "force=true" in capsys.readouterr().err
    assert export.main([run_folder, str(bundle), "force=true"]) == 0
    capsys.readouterr()
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious/thesis.txt").write_text("years")
    assert export.main([run_folder, str(tmp_path / "precious"), "force=true"]) == 2
    assert "is not replaced" in capsys.readouterr().err and (tmp_path / "precious/thesis.txt").exists()
    assert export.main([str(runs["glass_tiny"]), str(tmp_path / "glass"), "scorer=true"]) == 2
    assert "no exported scorer" in capsys.readouterr().err
    assert not [path.name for path in tmp_path.iterdir() if "glass" in path.name], "nothing half-written is left"
    assert export.main([run_folder, str(tmp_path / "copy"), "examples=false"]) == 0
    assert not Bundle.load(tmp_path / "copy").examples.num_rows
    for name in ("model.safetensors", "items.parquet", "bundle.json"):
        whole = (tmp_path / "copy" / name).read_bytes()
        middle = len(whole) // 2
        other = whole[:middle] + bytes(255 - byte for byte in whole[middle : middle + 8]) + whole[middle + 8 :]
        for damaged in (whole[:middle], other):
            (tmp_path / "copy" / name).write_bytes(damaged)
            with pytest.raises(
                UserError, match="no whole bundle" if name == "bundle.json" else "damaged or was changed"
            ):
                Bundle.load(tmp_path / "copy")
        (tmp_path / "copy" / name).write_bytes(whole)
    card = json.loads((tmp_path / "copy/bundle.json").read_text())
    for change, said in (
        ({"format": 9}, "format 9"),
        ({"files": []}, "no whole bundle"),
        ({"files": {}}, "does not say what model.safetensors holds"),
        ({"model": {"kind": "Unheard"}}, "Unheard"),
        ({"model": {**card["model"], "revision": 9}}, "computes otherwise since"),
    ):
        (tmp_path / "copy/bundle.json").write_text(json.dumps({**card, **change}))
        with pytest.raises(UserError, match=said):
            Bundle.load(tmp_path / "copy")


def test_a_bundle_stays_where_its_successor_cannot_be_moved(
    runs: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    command = [str(runs["rpg_tiny"]), str(tmp_path / "bundle")]
    assert export.main(command) == 0
    assert len(Recommender.load(tmp_path / "bundle").shown(0)["codes"]) == 8, "without the digit, which is not read"
    before, replace = (tmp_path / "bundle/bundle.json").read_bytes(), Path.replace

    def full(path: Path, target: Path) -> Path:
        if path.name.endswith(".new"):
            raise OSError(28, "No space left on device", str(target))
        return replace(path, target)

    monkeypatch.setattr(Path, "replace", full)
    assert export.main([*command, "force=true"]) == 2
    assert "No space left on device" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]
    assert (tmp_path / "bundle/bundle.json").read_bytes() == before


def test_runs_that_lie_on_another_disk_are_found_with_their_artifacts(runs: dict[str, Path], tmp_path: Path) -> None:
    disk, here = tmp_path / "disk/runs", tmp_path / "here"
    shutil.copytree(runs["sasrec_tiny"], disk / "sasrec_tiny/x")
    here.mkdir()
    (here / "runs").symlink_to(disk)
    (here / "artifacts").symlink_to(runs["sasrec_tiny"].parents[2] / "artifacts")
    assert bundle_of(here / "runs/sasrec_tiny/x").items.num_rows
    link = tmp_path / "elsewhere/runs/sasrec_tiny/x"
    (tmp_path / "elsewhere/artifacts/prepare").mkdir(parents=True)
    link.parent.mkdir(parents=True)
    link.symlink_to(runs["sasrec_tiny"])
    assert bundle_of(link).items.num_rows, "beside artifacts that are another's"


def test_new_items_stay_unknown_in_a_bundle_and_runs_that_told_them_from_others_are_refused(tmp_path: Path) -> None:
    done = run(["sidlight_tiny", *SMALL, *SHORT, "split.cold_share=0.2", f"output_dir={tmp_path}"])
    folder = done.train.folder
    assert export.main([str(folder), str(tmp_path / "bundle")]) == 0
    ready, moved = recommender(folder), Recommender.load(tmp_path / "bundle")
    module, _ = done.trained()
    for bundle in (ready.bundle, moved.bundle):
        assert torch.equal(bundle.inputs["new_N"], torch.from_numpy(done.new_items())) and bundle.inputs["new_N"].any()
        assert torch.equal(bundle.model.unit_items(), module.model.unit_items())  # type: ignore[operator]
    manifest = json.loads((folder / "train.manifest.json").read_text())
    del manifest["inputs"]["new_items"]
    (folder / "train.manifest.json").write_text(json.dumps(manifest))
    assert older_code(manifest["inputs"], {}) == "new items told from others"
    with pytest.raises(UserError, match="of another version"):
        bundle_of(folder)


def test_a_p5_that_began_as_a_t5_needs_that_no_more(tmp_path: Path) -> None:
    peer, output = tmp_path / "t5", tmp_path / "out"
    shape = named("p5_tiny").model.shape
    T5ForConditionalGeneration(t5_config(shape, 50)).save_pretrained(peer)
    arguments = ["p5_tiny", *SMALL, *SHORT, f"model.weights={peer}", f"output_dir={output}"]
    done = run(arguments)
    save_file(load_file(peer / "model.safetensors"), peer / "model.safetensors", {"format": "pt", "other": "yes"})
    assert Pipeline(done.config).train.hash != done.train.hash
    shutil.rmtree(peer)
    assert export.main([str(done.train.folder), str(tmp_path / "bundle")]) == 0
    ready, moved = recommender(done.train.folder), Recommender.load(tmp_path / "bundle")
    history = [[0, 1, 2]]
    assert ready.answer(history, Question()).lists.items_BK.equal(moved.answer(history, Question()).lists.items_BK)


def test_a_run_that_is_not_trained_to_its_end_is_refused(runs: dict[str, Path], tmp_path: Path) -> None:
    half = tmp_path / "runs/sasrec_tiny/x"
    shutil.copytree(runs["sasrec_tiny"], half)
    (half / "train.manifest.json").unlink()
    with pytest.raises(UserError, match="not trained to its end"):
        bundle_of(half)


def test_a_run_of_code_that_computed_otherwise_is_refused(runs: dict[str, Path], tmp_path: Path) -> None:
    old = tmp_path / "runs/sasrec_tiny/x"
    shutil.copytree(runs["sasrec_tiny"], old)
    manifest = json.loads((old / "train.manifest.json").read_text())
    for change in ({"version": VERSIONS["train"] - 1}, {"revision": 9}):
        (old / "train.manifest.json").write_text(json.dumps({**manifest, "inputs": {**manifest["inputs"], **change}}))
        with pytest.raises(UserError, match="of another version .* train again, or use its commit"):
            bundle_of(old)


def test_weights_or_vectors_that_the_run_did_not_write_are_refused(runs: dict[str, Path], tmp_path: Path) -> None:
    shutil.copytree(runs["sidlight_tiny"], tmp_path / "runs/sidlight_tiny/x")
    artifacts = runs["sidlight_tiny"].parents[2] / "artifacts"
    for stage in ("prepare", "embed", "tokenize"):
        shutil.copytree(artifacts / stage, tmp_path / "artifacts" / stage)
    assert bundle_of(tmp_path / "runs/sidlight_tiny/x").items.num_rows
    stages = json.loads((tmp_path / "runs/sidlight_tiny/x/environment.json").read_text())["stages"]
    vectors = tmp_path / "artifacts/embed" / stages["embed"] / "vectors.npy"
    for path in (vectors, tmp_path / "runs/sidlight_tiny/x/checkpoints/best.ckpt"):
        whole = path.read_bytes()
        path.write_bytes(whole[:-2000] + bytes(64) + whole[-1936:])
        with pytest.raises(UserError, match=f"{path.name} is damaged: its contents are not those the stage wrote"):
            bundle_of(tmp_path / "runs/sidlight_tiny/x")
        path.write_bytes(whole)


@pytest.mark.parametrize(
    ("name", "content"),
    [("config.yaml", "a: [b"), ("config.yaml", ""), ("environment.json", "{}"), ("test.json", "{}")],
)
def test_a_damaged_run_is_told(name: str, content: str, runs: dict[str, Path], tmp_path: Path) -> None:
    shutil.copytree(runs["sasrec_tiny"], tmp_path / "runs/sasrec_tiny/x")
    (tmp_path / "artifacts").symlink_to(runs["sasrec_tiny"].parents[2] / "artifacts")
    (tmp_path / "runs/sasrec_tiny/x" / name).write_text(content)
    with pytest.raises(UserError, match="is damaged.* Repeat (its|the run's) command"):
        bundle_of(tmp_path / "runs/sasrec_tiny/x")
