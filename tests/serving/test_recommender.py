"""A trained run in use gives what its test gave, from its folder or from a bundle of it.

Legend: B histories, K items, L levels.
"""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import torch.nn.functional as F
from filelock import FileLock
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import T5ForConditionalGeneration

from datamodules.batch import token_sequence
from experiments import export
from experiments.deploy import bundle_of, recommender
from experiments.named import named
from experiments.pipeline import Pipeline
from experiments.recommend import main as recommend
from experiments.run import run
from experiments.stages import VERSIONS
from models.hugging_face import t5_config
from models.tiger import Tiger
from serving import table as tables
from serving.bundle import Bundle
from serving.recommender import Question, Recommender
from serving.scorer import SCORER, inputs, scorer
from sid.errors import UserError

MODELS = [
    "tiger_tiny",
    "glass_tiny",
    "causal_tiny",
    "sidlight_tiny",
    "sasrec_tiny",
    "gru4rec_tiny",
    "caser_tiny",
    "hgn_tiny",
    "fdsa_tiny",
    "itemknn_tiny",
]
TIE = 1e-5
"""Scores that another batch, whose products round otherwise, may put in another order."""
SMALL = ["data.num_users=80", "train.precision=32-true"]
SHORT = ["sequences.steps_per_epoch=3", "train.max_epochs=1", "train.validate_every=1"]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One trained folder a model."""
    output = tmp_path_factory.mktemp("serving")
    found = {}
    for name in MODELS:
        learns = [] if name == "itemknn_tiny" else SHORT
        tokens = ["model.num_user_tokens=7"] if name == "tiger_tiny" else []
        long = ["data.num_users=40"] if name == "glass_tiny" else []
        done = run([name, *SMALL, *learns, *tokens, *long, f"output_dir={output}"])
        found[name] = done.train.folder
    return found


@pytest.fixture(scope="module")
def bundles(runs: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    output = tmp_path_factory.mktemp("bundles")
    for name, folder in runs.items():
        assert export.main([str(folder), str(output / name), f"scorer={'false' if 'glass' in name else 'true'}"]) == 0
    return {name: output / name for name in runs}


def asked(ready: Recommender) -> tuple[list[list[int]], list[int], list[str]]:
    """The histories of the examples, their users' numbers and ids."""
    rows = ready.bundle.examples
    raw = rows["user"].to_pylist()
    return rows["history"].to_pylist(), ready.user_numbers(raw), raw


@pytest.mark.parametrize("name", MODELS)
def test_answers_are_the_lists_of_the_test(name: str, runs: dict[str, Path]) -> None:
    ready = recommender(runs[name])
    histories, users, raw_users = asked(ready)
    found = ready.answer(histories, Question(k=ready.bundle.card.num_beams), users).lists
    written = pq.read_table(runs[name] / "recommendations.parquet").to_pandas()
    stages = json.loads((runs[name] / "environment.json").read_text())["stages"]
    ids = pq.read_table(runs[name].parents[2] / "artifacts/prepare" / stages["prepare"] / "users.parquet")
    number = {raw: row for row, raw in enumerate(ids["user"].to_pylist())}
    for raw, items_K, scores_K in zip(raw_users, found.items_BK.tolist(), found.scores_BK.tolist(), strict=True):
        rows = written[written.user == number[raw]].sort_values("rank")
        scores = np.array([score for score in scores_K if np.isfinite(score)])
        assert np.allclose(scores, rows["score"], atol=1e-4)
        items = np.array([item for item in items_K if item >= 0])
        moved = items != rows["item"]
        gaps = np.abs(np.diff(scores, prepend=np.inf, append=-np.inf))
        tied = np.minimum(gaps[:-1], gaps[1:]) < TIE
        assert not (moved & ~tied).any() and set(items) == set(rows["item"])


@pytest.mark.parametrize("name", MODELS)
def test_a_bundle_answers_as_the_run(name: str, runs: dict[str, Path], bundles: dict[str, Path]) -> None:
    ready, moved = recommender(runs[name]), Recommender.load(bundles[name])
    histories, users, _ = asked(ready)
    assert (moved.bundle.users is not None) == (name in ("tiger_tiny", "caser_tiny", "hgn_tiny"))
    question = Question(k=5, temperature=0.7, seed=4)
    for how in (Question(), question):
        ours, theirs = ready.answer(histories, how, users), moved.answer(histories, how, users)
        assert torch.equal(ours.lists.items_BK, theirs.lists.items_BK)
        assert torch.allclose(ours.lists.scores_BK, theirs.lists.scores_BK)
    assert moved.bundle.card.provenance["run"] == runs[name].name
    assert moved.bundle.card.provenance["test"]["recall@10"] >= 0


def test_histories_of_different_lengths_are_answered_as_each_alone(runs: dict[str, Path]) -> None:
    for name, folder in runs.items():
        ready = recommender(folder)
        histories = [asked(ready)[0][0][:1], asked(ready)[0][1], asked(ready)[0][2] * 3]
        together = ready.answer(histories, Question(k=5)).lists
        for row, history in enumerate(histories):
            alone = ready.answer([history], Question(k=5)).lists
            assert torch.equal(together.items_BK[row], alone.items_BK[0]), name
            assert torch.allclose(together.scores_BK[row], alone.scores_BK[0], atol=1e-4)


@pytest.mark.parametrize("how", [Question(k=5, fresh=True), Question(k=5, temperature=1.5, seed=3)])
@pytest.mark.parametrize("name", ["causal_tiny", "sasrec_tiny"])
def test_nobody_s_answer_depends_on_who_asks_beside(name: str, how: Question, runs: dict[str, Path]) -> None:
    ready = recommender(runs[name])
    histories = [[1], *asked(ready)[0][:5], list(range(60))]
    together = ready.answer(histories, how).lists
    for row, history in enumerate(histories):
        assert torch.equal(together.items_BK[row], ready.answer([history], how).lists.items_BK[0])
    if how.temperature:
        assert not torch.equal(together.items_BK, ready.answer(histories, how._replace(seed=4)).lists.items_BK)


def test_fresh_lists_are_the_longer_ones_without_the_history(runs: dict[str, Path]) -> None:
    for name in ("itemknn_tiny", "tiger_tiny"):
        ready = recommender(runs[name])
        histories = asked(ready)[0][:6]
        everything = ready.answer(histories, Question(k=ready.num_items, beams=0)).lists
        fresh = ready.answer(histories, Question(k=8, fresh=True)).lists
        for row, history in enumerate(histories):
            slow = [item for item in everything.items_BK[row].tolist() if item >= 0 and item not in history][:8]
            if name == "itemknn_tiny":  # the beams of the other are fewer than the items
                assert fresh.items_BK[row].tolist() == slow
            assert not set(fresh.items_BK[row].tolist()) & set(history)


def test_a_trace_ends_with_the_codes_of_the_lists(runs: dict[str, Path]) -> None:
    ready = recommender(runs["causal_tiny"])
    found = ready.answer(asked(ready)[0][:3], Question(k=4))
    assert [part.shape[2] for part in found.beams] == list(range(1, len(found.beams) + 1))
    assert torch.equal(found.beams[-1][:, :4], found.lists.codes_BKL)
    assert ready.bundle.table is not None
    assert torch.equal(found.lists.codes_BKL, ready.bundle.table.codes_NL[found.lists.items_BK])


@pytest.mark.parametrize(
    ("question", "said"),
    [
        (Question(k=0), "k=0"),
        (Question(k=10**6), "k=1000000"),
        (Question(beams=3), "at least k=10"),
        (Question(temperature=-1.0), "temperature=-1"),
        (Question(first_temperature=1e9), "first_temperature"),
        (Question(temperature=1e-40), "temperature=1e-40"),
        (Question(temperature=1.0, seed=2**70), "seed="),
    ],
)
def test_questions_that_cannot_be_answered(question: Question, said: str, runs: dict[str, Path]) -> None:
    with pytest.raises(UserError, match=said):
        recommender(runs["tiger_tiny"]).answer([[0]], question)


def test_an_empty_history_and_beams_of_a_classic_model_are_refused(runs: dict[str, Path]) -> None:
    ready = recommender(runs["sasrec_tiny"])
    with pytest.raises(UserError, match="empty"):
        ready.answer([[1], []], Question())
    with pytest.raises(UserError, match="no beams"):
        ready.answer([[1]], Question(beams=50))


@pytest.mark.parametrize("name", [name for name in MODELS if name != "glass_tiny"])
def test_the_exported_program_scores_as_the_model(name: str, bundles: dict[str, Path]) -> None:
    program = torch.export.load(bundles[name] / SCORER).module()
    bundle = Bundle.load(bundles[name])
    module, least = scorer(bundle), 1 if bundle.table is None else 2
    for rows, length in ((1, 1), (1, 2), (4, 9), (2, 20)):
        history_BT = torch.randint(bundle.items.num_rows, (rows, length))
        padded_BT, user_B = F.pad(history_BT, (0, max(0, least - length)), value=-1), torch.zeros(rows).long()
        with torch.no_grad():
            found = program(*inputs(bundle, padded_BT, user_B))
            assert torch.allclose(found, module(*inputs(bundle, history_BT, user_B)), atol=1e-4)
            if bundle.table is None:
                model: Any = bundle.model
                assert torch.allclose(found, model.scores(history_BT, user_B), atol=1e-4)


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


def test_a_table_of_users_goes_on_where_it_was_killed(
    runs: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ready = recommender(runs["causal_tiny"])
    raw_ids = ready.bundle.items["item"].to_pylist()
    histories = [[raw_ids[item] for item in row] for row in asked(ready)[0][:9]]
    histories[3], histories[5] = [], ["nobody knows this", *histories[5]]
    given, out = tmp_path / "users.parquet", tmp_path / "out.parquet"
    pq.write_table(pa.table({"user": [f"u{row}" for row in range(9)], "history": histories}), given)
    calls = 0

    def fails(*arguments: object) -> pa.Table:
        nonlocal calls
        calls += 1
        if calls == 3:
            raise KeyboardInterrupt
        return answered(*arguments)  # type: ignore[arg-type]

    answered = tables._answer
    monkeypatch.setattr(tables, "_answer", fails)
    with pytest.raises(KeyboardInterrupt):
        tables.recommend_table(ready, given, out, Question(k=4), part_users=2)
    assert not out.exists()
    done = tables.recommend_table(ready, given, out, Question(k=4), part_users=2)
    assert calls == 3 + 3 and done == (8, 1)
    assert [path.name for path in tmp_path.iterdir() if "out" in path.name] == ["out.parquet"]
    rows = pq.read_table(out).to_pylist()
    assert [row["user"] for row in rows] == [f"u{row}" for row in range(9)]
    for row, history in zip(rows, histories, strict=True):
        numbers, _ = ready.numbers(history)
        alone = ready.answer([numbers], Question(k=4)).lists.items_BK[0].tolist() if numbers else []
        assert row["items"] == [raw_ids[item] for item in alone] and len(row["scores"]) == len(row["items"])


def test_the_command_line(runs: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = str(runs["sasrec_tiny"])
    raw_ids = recommender(runs["sasrec_tiny"]).bundle.items["item"].to_pylist()
    assert recommend([folder, "--history", f"{raw_ids[3]}, {raw_ids[5]},[/nothing]", "--k", "4"]) == 0
    shown = capsys.readouterr().out
    assert "left out: [/nothing]" in shown and raw_ids[3] in shown
    for arguments, said in (
        ([folder], "give --history or --users"),
        ([folder, "--history", "nothing"], "none of these ids"),
        ([folder, "--history", raw_ids[0], "--k", "x"], "invalid int"),
        ([folder, "--users", "a.parquet"], "belong together"),
        ([folder, "--users", str(tmp_path / "no.parquet"), "--out", str(tmp_path / "o")], "no readable Parquet"),
        ([str(tmp_path), "--history", raw_ids[0]], "is no run"),
        ([folder, "--history", raw_ids[0], "--beams", "20"], "no beams"),
        ([folder, "--history", raw_ids[0], "--device", "tpu"], "device=tpu"),
        ([folder, "--users", "a.parquet", "--out", "a.parquet"], "is the file of the histories"),
        ([folder, "--users", "a.parquet", "--out", str(tmp_path)], "expected a file"),
    ):
        assert recommend(arguments) == 2
        assert said in capsys.readouterr().err
    given = tmp_path / "wrong.parquet"
    with FileLock(tmp_path / ".out.lock"):
        pq.write_table(pa.table({"user": ["a"], "history": [["b"]]}), given)
        assert recommend([folder, "--users", str(given), "--out", str(tmp_path / "out")]) == 2
        assert "another process is writing" in capsys.readouterr().err
    for columns, said in (({"user": ["a"]}, "it needs user and history"), ({"user": ["a"], "history": ["b"]}, "list")):
        pq.write_table(pa.table(columns), given)
        assert recommend([folder, "--users", str(given), "--out", str(tmp_path / "out")]) == 2
        assert said in capsys.readouterr().err


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
    assert "no exported scorer" in capsys.readouterr().err and not (tmp_path / "glass").exists()
    assert export.main([run_folder, str(tmp_path / "copy")]) == 0
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
        ({"model": {"kind": "Unheard"}}, "Unheard"),
        ({"model": {**card["model"], "revision": 9}}, "computes otherwise since"),
    ):
        (tmp_path / "copy/bundle.json").write_text(json.dumps({**card, **change}))
        with pytest.raises(UserError, match=said):
            Bundle.load(tmp_path / "copy")


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
    with pytest.raises(UserError, match="is damaged .* Repeat its command"):
        bundle_of(tmp_path / "runs/sasrec_tiny/x")
