"""The command line as a user meets it: the whole pipeline on a catalogue of 60 users, kills and mistakes included."""

import csv
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from experiments.run import main, run
from tests.experiments.small import FEW_BEAMS
from tests.forked import Started

pytestmark = pytest.mark.usefixtures("blank_reports")
SMALL = [
    "data.num_users=60",
    "data.num_items=40",
    "data.num_categories=4",
    "data.mean_length=8",
    "embed.dim=16",
    "tokenizer.codebook_sizes=[8,8]",
    "tokenizer.epochs=40",
    "model.num_layers=1",
    "model.width=32",
    "train.max_epochs=5",
    "sequences.batch_size=32",
    *FEW_BEAMS,
]


def command(output: Path, *more: str) -> list[str]:
    return ["tiger_tiny", *SMALL, f"output_dir={output}", *more]


def folder(output: Path) -> Path:
    (found,) = (path for path in output.glob("runs/*/*") if path.is_dir())
    return found


def load(checkpoint: Path) -> dict[str, Any]:
    content: dict[str, Any] = torch.load(checkpoint, map_location="cpu", weights_only=True)
    return content


def results(output: Path) -> tuple[dict[str, Any], list[dict[str, str]]]:
    test = json.loads((folder(output) / "test.json").read_text())
    rows = list(csv.DictReader((folder(output) / "metrics.csv").open()))
    return test["metrics"], [{k: v for k, v in row.items() if k not in ("seconds", "cpu_seconds")} for row in rows]


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("unbroken")
    assert main(command(output)) == 0
    return output


def test_a_run_leaves_everything_that_says_what_it_was(unbroken: Path) -> None:
    found = folder(unbroken)
    files = {str(path.relative_to(found)) for path in found.rglob("*") if path.is_file()}
    assert files >= {
        *("config.yaml", "environment.json", "metrics.csv", "test.json", "report.html", "recommendations.parquet"),
        *("checkpoints/best.ckpt", "checkpoints/last.ckpt", "train.manifest.json", "evaluate.manifest.json"),
    }
    metrics, rows = results(unbroken)
    assert len(rows) == 5
    (curves,) = unbroken.glob("artifacts/tokenize/*/metrics.csv")
    looked = [int(row["epoch"]) for row in csv.DictReader(curves.open()) if row["collision_rate"]]
    assert looked == [5, 10, 15, 20, 25, 30, 35, 40], "an epoch that did not look reports no old figure"
    wanted = {"recall@1", "recall@5", "recall@10", "recall@20", "ndcg@5", "ndcg@10", "ndcg@20"}
    wanted |= {"invalid@10", "invalid@20", "entropy@10", "entropy@20", "coverage@10"}
    assert wanted <= set(metrics)
    assert {f"val/{name}" for name in wanted} <= set(rows[-1])
    figures = json.loads((found / "train.manifest.json").read_text())["figures"]
    assert all(figures[name] > 0 for name in ("cpu_seconds", "targets_per_cpu_second", "peak_memory_gib"))
    assert figures["precision"] == json.loads((found / "test.json").read_text())["precision"] == "32-true"
    table = pq.read_table(found / "recommendations.parquet")
    assert table.column_names == ["user", "rank", "item", "raw_id", "score"]
    assert table.num_rows == 60 * 20
    environment = json.loads((found / "environment.json").read_text())
    assert set(environment["stages"]) == {"prepare", "embed", "tokenize", "train", "evaluate"}
    assert "torch" in environment["versions"]


def test_the_same_seed_gives_the_same_numbers_and_repeating_a_finished_run_rebuilds_nothing(
    unbroken: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(command(tmp_path))
    assert results(tmp_path) == results(unbroken)
    capsys.readouterr()
    run(command(tmp_path))
    said = capsys.readouterr().out
    assert said.count(": reused ") == 5
    assert "working in" not in said


def test_a_run_killed_in_two_stages_goes_on_and_ends_with_the_numbers_of_an_unbroken_one(
    unbroken: Path, tmp_path: Path
) -> None:
    for checkpoint in ("artifacts/tokenize/*/last.ckpt", "runs/tiger_tiny/*/checkpoints/last.ckpt"):
        running = Started(main, command(tmp_path), errors=tmp_path / "errors")
        while not list(tmp_path.glob(checkpoint)) and running.running:
            time.sleep(0.005)
        running.send(signal.SIGKILL)
        assert running.wait() == [-signal.SIGKILL], running.said()
        (stopped,) = tmp_path.glob(checkpoint)
        stage = stopped.relative_to(tmp_path).parts[1].replace("tiger_tiny", "train")
        assert not list(tmp_path.glob(f"**/{stage}.manifest.json")), "the stage was over before the kill"
    run(command(tmp_path))
    assert results(tmp_path) == results(unbroken)


@pytest.mark.parametrize("form", ["item", "flat"])
def test_a_causal_run_with_averaged_weights_goes_on_to_the_numbers_of_an_unbroken_one(
    form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lightning_modules.generative import GenerativeModule

    class Stop(Exception): ...

    def stop_in_the_third_epoch(module: GenerativeModule) -> None:
        if module.current_epoch == 2:
            raise Stop
        begin_epoch(module)

    begin_epoch = GenerativeModule.on_train_epoch_start
    sizes = [*SMALL, "sequences.max_items=4", "tokenizer.epochs=5", "train.max_epochs=3", "train.ema=0.9"]
    options = [f"model.form={form}", "model.item_dropout=0.2", "evaluation.constrained=true", f"output_dir={tmp_path}"]
    arguments = ["causal_tiny", *sizes, *options]
    run(arguments)
    unbroken = results(tmp_path)
    assert len(unbroken[1]) == 3
    monkeypatch.setattr(GenerativeModule, "on_train_epoch_start", stop_in_the_third_epoch)
    with pytest.raises(Stop):
        run([*arguments, "force=train"])
    monkeypatch.undo()
    assert not list(tmp_path.glob("runs/*/*/test.json"))
    run(arguments)
    assert len(json.loads((folder(tmp_path) / "environment.json").read_text())["resumed"]) == 1
    assert results(tmp_path) == unbroken


def test_p5_learns_the_names_of_items_by_heart(tmp_path: Path) -> None:
    small = [option for option in SMALL if option != "tokenizer.epochs=40"]
    run(["p5_tiny", *small, "tokenizer.codebook_sizes=[5,5]", "train.max_epochs=20", f"output_dir={tmp_path}"])
    metrics, rows = results(tmp_path)
    assert float(rows[-1]["train/loss"]) < float(rows[0]["train/loss"]) / 2
    assert metrics["invalid@10"] < 0.5, "most of what it writes freely is a name"


def test_a_stage_can_be_the_last_and_rebuilding_starts_where_it_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run([*command(tmp_path), "stage=embed"])
    assert sorted(path.name for path in (tmp_path / "artifacts").iterdir()) == ["embed", "prepare"]
    assert "interactions" in capsys.readouterr().out
    run([*command(tmp_path), "stage=embed", "force=embed"])
    said = capsys.readouterr().out
    assert "prepare: reused" in said
    assert "embed: working" in said


def test_only_what_depends_on_a_change_is_rebuilt(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run([*command(tmp_path), "stage=tokenize"])
    capsys.readouterr()
    run([*command(tmp_path), "stage=tokenize", "tokenizer.seed=5"])
    said = capsys.readouterr().out
    assert "embed: reused" in said
    assert "tokenize: working" in said


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["tiger_tny"], "there is no experiment 'tiger_tny'; did you mean tiger_tiny?"),
        (["tiger_tiny", "stage=cook"], "stage=cook: there is no such stage; expected one of prepare"),
        (["tiger_tiny", "model.depth=2"], "unknown key 'model.depth'"),
        (["tiger_tiny", "seed=one"], "seed=one"),
        (["tiger_tiny", "stage=embed", "force=train"], "force=train: expected a stage up to stage=embed"),
        (["tiger_tiny", "stage=embed", "embed.encoder=magic"], "magic"),
        (["tiger_tiny", "embed.collaborative=-1"], "embed.collaborative=-1.0: expected a number of at least 0"),
        (["tiger_tiny", "embed.collaborative=.inf"], "embed.collaborative=inf: expected a number of at least 0"),
        (["tiger_tiny", "stage=tokenize", "tokenizer.codebook_sizes=[999]"], "a codebook of 999 codes needs as many"),
    ],
)
def test_a_mistake_is_one_line_without_a_traceback(
    arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*arguments, f"output_dir={tmp_path}"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert message in error
    assert "Traceback" not in error


@pytest.mark.parametrize(("grouped", "status", "torn_down"), [(False, 0, True), (True, 0, False), (True, 143, True)])
def test_a_process_that_has_done_its_work_in_a_group_ends_without_the_teardown_of_python(
    grouped: bool, status: int, torn_down: bool, tmp_path: Path
) -> None:
    group = f"torch.distributed.init_process_group('gloo', init_method='file://{tmp_path}/s', rank=0, world_size=1)"
    program = f"""
import atexit, torch
from experiments.run import leave
class Last:
    def __del__(self): print("torn down")
last = Last()
atexit.register(print, "called")
{group if grouped else ""}
print("written")
leave({status})
"""
    buffered = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    done = subprocess.run([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True, env=buffered)
    assert done.returncode == status
    assert done.stdout.split("\n") == ["written", "called", *["torn down"] * torn_down, ""]


def test_a_run_on_one_device_is_its_own_among_the_tasks_of_an_allocation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {"NTASKS": "2", "NTASKS_PER_NODE": "2", "PROCID": "1", "JOB_ID": "7"}.items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    assert main(command(tmp_path, "train.accelerator=cpu", "train.max_epochs=1")) == 0
    assert (folder(tmp_path) / "report.html").exists()


def test_forcing_is_refused_where_several_processes_start_at_once(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert main(["tiger_tiny", "train.devices=2", "force=train"]) == 2
    assert "force=train: of several processes" in capsys.readouterr().err


def test_another_process_than_the_first_needs_no_folder_and_writes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipeline = run(["popularity_tiny", *SMALL[:4], "stage=prepare", f"output_dir={tmp_path}"])
    monkeypatch.setenv("RANK", "1")
    pipeline.train.run(pipeline._train, False, print)
    assert not pipeline.train.folder.exists()


def test_the_users_home_stands_for_a_tilde_and_vectors_are_known_by_contents(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    names = []
    for name, start in (("a", 0), ("b", 1), ("c", 0)):
        np.save(tmp_path / f"{name}.npy", np.arange(start, 40 * 4 + start, dtype=np.float32).reshape(40, 4))
        given = ["embed.encoder=file", f"embed.path=~/{name}.npy", "stage=embed", "output_dir=~/out"]
        names.append(run(["tiger_tiny", *SMALL[:4], *given]).embed.folder)
    assert names[0] == names[2] != names[1]
    assert names[0].is_relative_to(tmp_path / "out")


def test_ctrl_c_says_how_to_go_on(tmp_path: Path) -> None:
    running = subprocess.Popen(
        [sys.executable, "-m", "experiments.run", *command(tmp_path, "train.max_epochs=500", "train.patience=500")],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),  # background shells ignore it
    )
    while not list(tmp_path.glob("runs/tiger_tiny/*/checkpoints/last.ckpt")) and running.poll() is None:
        time.sleep(0.01)
    running.send_signal(signal.SIGINT)
    _, error = running.communicate(timeout=60)
    assert running.returncode == 130
    assert "the same command goes on from the last checkpoint" in error
    assert "Traceback" not in error


def test_where_validation_targets_are_learnt_the_last_weights_are_kept(tmp_path: Path) -> None:
    rushed = ["optimizer.learning_rate=0.05", "optimizer.warmup_steps=1", "train.patience=0"]
    assert main(command(tmp_path, *rushed, "split.learn_validation=true")) == 0
    _, rows = results(tmp_path)
    assert [row["epoch"] for row in rows] == ["1", "2", "3", "4", "5"]
    assert [bool(row["val/ndcg@10"]) for row in rows] == [False, False, False, False, True]
    kept, last = (load(folder(tmp_path) / "checkpoints" / name)["state_dict"] for name in ("best.ckpt", "last.ckpt"))
    assert all(torch.equal(kept[name], last[name]) for name in last)
    assert "validation targets were learnt too" in (folder(tmp_path) / "report.html").read_text()


def test_a_diverged_training_is_an_error_and_not_a_result(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(command(tmp_path, "optimizer.learning_rate=1e30", "optimizer.warmup_steps=0")) == 2
    assert "lower the learning_rate" in capsys.readouterr().err
    assert not list(tmp_path.glob("**/train.manifest.json"))


def test_a_finished_run_needs_its_last_checkpoint_no_more(
    unbroken: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(unbroken, tmp_path / "out")
    (folder(tmp_path / "out") / "checkpoints/last.ckpt").unlink()
    run(command(tmp_path / "out"))
    said = capsys.readouterr().out
    assert "train: reused" in said and "evaluate: reused" in said


def test_a_damaged_checkpoint_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(command(tmp_path, "stage=tokenize"))
    (checkpoint,) = tmp_path.glob("artifacts/tokenize/*/last.ckpt")
    checkpoint.write_bytes(checkpoint.read_bytes()[:5000])
    (checkpoint.parent / "tokenize.manifest.json").unlink()
    assert main(command(tmp_path, "stage=tokenize")) == 2
    assert "last.ckpt is damaged" in (error := capsys.readouterr().err)
    assert "force=tokenize" in error


def test_a_trained_model_decodes_outside_a_trainer(unbroken: Path) -> None:
    from sid.decode import beam_search

    pipeline = run(command(unbroken))
    module, data = pipeline.trained()
    batch = next(iter(data.test_dataloader()))
    lists = beam_search(module.model, module.model.begin(batch.tokens_BS), pipeline.table.trie, num_beams=20)
    table = pq.read_table(folder(unbroken) / "recommendations.parquet").to_pydict()
    first = [item for user, item in zip(table["user"], table["item"], strict=True) if user == batch.user_B[0]][:5]
    assert lists.items_BK[0, :5].tolist() == first


@pytest.mark.parametrize(("largest_file", "stage"), [(1500, "prepare"), (9000, "tokenize"), (150_000, "train")])
def test_a_full_disk_is_one_line_and_the_repeat_goes_on(
    largest_file: int, stage: str, unbroken: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A limit on the size of a file stands in for the disk: writing beyond it fails as on a full one."""
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (largest_file, hard))
    try:
        assert main(command(tmp_path)) == 2
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
    error = capsys.readouterr().err
    assert f"error: stage {stage} could not write" in error
    assert "Traceback" not in error
    assert not list(tmp_path.glob(f"**/{stage}.manifest.json"))
    run(command(tmp_path))
    assert results(tmp_path) == results(unbroken)


def test_a_sid_table_of_another_catalogue_is_refused(
    unbroken: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from experiments.pipeline import Pipeline
    from sid.errors import UserError

    pipeline: Pipeline = run([*command(tmp_path), "stage=tokenize"])
    header = pipeline.tokenize.folder / "sids.json"
    header.write_text(header.read_text().replace(pipeline.prepare.hash, "0" * 12))
    with pytest.raises(UserError, match="catalogue 000000000000"):
        _ = pipeline.table


def test_without_arguments_it_lists_the_experiments(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    assert "tiger_beauty" in capsys.readouterr().out


def test_wandb_offline_logs_the_metrics_and_the_report(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, unbroken: Path
) -> None:
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    assert main(command(tmp_path, "logger=wandb")) == 0
    assert results(tmp_path) == results(unbroken)
    deadline, logged = time.monotonic() + 30, b""
    while b"test/recall@10" not in logged and time.monotonic() < deadline:  # a process of wandb's own writes the file
        time.sleep(0.1)
        logged = b"".join(path.read_bytes() for path in tmp_path.glob("wandb/offline-run-*/*.wandb"))
    assert b"val/ndcg@10" in logged
    assert b"test/recall@10" in logged
    assert list(tmp_path.glob("wandb/offline-run-*/files/media/html/report*.html"))
