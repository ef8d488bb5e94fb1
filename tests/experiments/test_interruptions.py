"""Trainings that are stopped within an epoch end with the numbers of an unbroken one."""

import json
import os
import signal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lightning
import pytest
import torch

from callbacks.history import History
from experiments import run
from experiments.interruptions import WithinEpoch
from experiments.named import named
from experiments.overrides import override
from experiments.page import read_columns
from experiments.pipeline import Pipeline
from experiments.trainers import best_checkpoint
from sid.errors import Terminated, UserError
from tests.experiments.small import FEW_BEAMS, beside

pytestmark = pytest.mark.usefixtures("blank_reports")
SMALL = ["data.num_users=90", "train.max_epochs=3", "train.validate_every=1", "sequences.steps_per_epoch=6"]
CLOCKS = {"seconds", "cpu_seconds"}


class Stop(lightning.Callback):
    """Does something after a batch of an epoch (both from 0), once."""

    def __init__(self, epoch: int, batch: int, act: Any) -> None:
        self.at, self.act = (epoch, batch), act

    def on_train_batch_end(self, trainer: Any, module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if (trainer.current_epoch, batch_idx) == self.at:
            self.act()


def terminate() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


def die() -> None:
    raise MemoryError("killed")


def small(name: str) -> list[str]:
    """A model that scores whole items has no unconstrained beams."""
    beams = [word for word in FEW_BEAMS if name != "sasrec_tiny" or "free_beams" not in word]
    return [*SMALL, *beams]


def pipeline(name: str, output: Path, *watchers: Any, more: tuple[str, ...] = ()) -> Pipeline:
    config = override(named(name), [*small(name), *more, f"output_dir={output}"])
    return Pipeline(config, say=lambda line: None, watchers=list(watchers))


def finish(asked: Pipeline) -> dict[str, Any]:
    """What a run ends with: test metrics, and every epoch's."""
    asked.run("evaluate", lambda *figures: None)
    columns = read_columns(asked.train.folder / "metrics.csv")
    return {
        "test": json.loads((asked.train.folder / "test.json").read_text())["metrics"],
        "epochs": {name: values.tolist() for name, values in columns.items() if name not in CLOCKS},
        "weights": torch.load(asked.train.folder / "checkpoints/best.ckpt", weights_only=True)["state_dict"],
    }


def same(ours: dict[str, Any], theirs: dict[str, Any]) -> None:
    assert json.dumps(ours["test"]) == json.dumps(theirs["test"])
    assert json.dumps(ours["epochs"]) == json.dumps(theirs["epochs"])
    for name, weight in ours["weights"].items():
        assert torch.equal(weight, theirs["weights"][name]), name


@pytest.fixture(scope="module", params=["tiger_tiny", "sasrec_tiny"])
def unbroken(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path, Any]:
    output = tmp_path_factory.mktemp("unbroken")
    return request.param, output, finish(pipeline(request.param, output))


@pytest.mark.parametrize("at", [(0, 2), (2, 1)])
def test_sigterm_within_an_epoch(at: tuple[int, int], unbroken: tuple[str, Path, Any], tmp_path: Path) -> None:
    name, output, whole = unbroken
    beside(output, tmp_path)
    with pytest.raises(Terminated):
        pipeline(name, tmp_path, Stop(*at, terminate)).run("evaluate", lambda *figures: None)
    again = pipeline(name, tmp_path)
    saved = torch.load(again.train.folder / "checkpoints/last.ckpt", weights_only=True)
    assert saved["global_step"] == at[0] * 6 + at[1] + 2, "heeded after the next batch"
    same(finish(again), whole)


def test_sigterm_near_the_end_of_the_training_is_heeded_behind_it(
    unbroken: tuple[str, Path, Any], tmp_path: Path
) -> None:
    name, output, whole = unbroken
    beside(output, tmp_path)
    with pytest.raises(Terminated):
        pipeline(name, tmp_path, Stop(2, 4, terminate)).run("evaluate", lambda *figures: None)
    same(finish(pipeline(name, tmp_path)), whole)


@pytest.mark.parametrize("every", ["1", "2"])
def test_sigterm_between_epochs_of_one_batch(every: str, tmp_path: Path) -> None:
    more = ("sequences.steps_per_epoch=1", "train.max_epochs=6", f"train.validate_every={every}")
    whole = finish(pipeline("sasrec_tiny", tmp_path / "whole", more=more))
    beside(tmp_path / "whole", tmp_path)
    with pytest.raises(Terminated):
        pipeline("sasrec_tiny", tmp_path, Stop(2, 0, terminate), more=more).run("evaluate", lambda *figures: None)
    again = pipeline("sasrec_tiny", tmp_path, more=more)
    saved = torch.load(again.train.folder / "checkpoints/last.ckpt", weights_only=True)
    assert saved["global_step"] == {"1": 3, "2": 2}[every]
    same(finish(again), whole)


def test_sigterm_within_an_epoch_of_averaged_weights(tmp_path: Path) -> None:
    more = ("train.ema=0.9",)
    whole = finish(pipeline("sasrec_tiny", tmp_path / "whole", more=more))
    beside(tmp_path / "whole", tmp_path)
    with pytest.raises(Terminated):
        pipeline("sasrec_tiny", tmp_path, Stop(1, 2, terminate), more=more).run("evaluate", lambda *figures: None)
    same(finish(pipeline("sasrec_tiny", tmp_path, more=more)), whole)


def test_a_run_that_is_moved_goes_on_where_it_is(unbroken: tuple[str, Path, Any], tmp_path: Path) -> None:
    name, output, whole = unbroken
    (tmp_path / "here").mkdir()
    with pytest.raises(Terminated):
        pipeline(name, beside(output, tmp_path / "here"), Stop(2, 2, terminate)).run("train", lambda *figures: None)
    (tmp_path / "here").rename(tmp_path / "there")
    same(finish(pipeline(name, tmp_path / "there")), whole)
    assert not (tmp_path / "here").exists()


def test_the_best_validation_is_known_in_another_folder(tmp_path: Path) -> None:
    here, there = (best_checkpoint(tmp_path / name, "val/ndcg@10", 1) for name in ("here", "there"))
    path = str(tmp_path / "here/best.ckpt")
    here.best_model_path = here.kth_best_model_path = path
    here.best_model_score = here.kth_value = torch.tensor(0.5)
    here.best_k_models = {path: here.kth_value}
    (tmp_path / "there").mkdir()
    (tmp_path / "there/best.ckpt").touch()
    there.load_state_dict(here.state_dict())
    moved = path.replace("here", "there")
    assert there.best_model_score == 0.5 and there.best_k_models == {moved: here.kth_value}
    assert (there.best_model_path, there.kth_best_model_path) == (moved, moved)
    assert there.state_key.startswith("ModelCheckpoint{"), "what was saved before is found"


def test_the_best_weights_that_are_gone_are_missed_before_the_training_goes_on(tmp_path: Path) -> None:
    with pytest.raises(Terminated):
        pipeline("sasrec_tiny", tmp_path, Stop(1, 2, terminate)).run("train", lambda *figures: None)
    again = pipeline("sasrec_tiny", tmp_path)
    (again.train.folder / "checkpoints/best.ckpt").unlink()
    with pytest.raises(UserError, match="best.ckpt is missing. Start again with force=train"):
        again.run("train", lambda *figures: None)


@pytest.mark.parametrize("at", [(0, 3), (1, 5)])
def test_a_kill_costs_what_came_after_the_last_timed_checkpoint(
    at: tuple[int, int], unbroken: tuple[str, Path, Any], tmp_path: Path
) -> None:
    name, output, whole = unbroken
    beside(output, tmp_path)
    often = ("train.checkpoint_minutes=1e-9",)
    with pytest.raises(MemoryError):
        pipeline(name, tmp_path, Stop(*at, die), more=often).run("train", lambda *figures: None)
    again = pipeline(name, tmp_path, more=often)
    saved = torch.load(again.train.folder / "checkpoints/last.ckpt", weights_only=True)
    assert saved["global_step"] >= at[0] * 6 + at[1]
    same(finish(again), whole)


class StopAtValidation(lightning.Callback):
    def __init__(self, epoch: int, act: Any) -> None:
        self.epoch, self.act = epoch, act

    def on_validation_start(self, trainer: Any, module: Any) -> None:
        if trainer.current_epoch == self.epoch:
            self.act()


@pytest.mark.parametrize(("act", "minutes", "epoch"), [(terminate, "1e-9", 0), (die, "1e-9", 1), (terminate, "10", 2)])
def test_the_end_of_an_epoch_and_its_validation(
    act: Any, minutes: str, epoch: int, unbroken: tuple[str, Path, Any], tmp_path: Path
) -> None:
    name, output, whole = unbroken
    beside(output, tmp_path)
    more = (f"train.checkpoint_minutes={minutes}",)
    with pytest.raises((Terminated, MemoryError)):
        pipeline(name, tmp_path, StopAtValidation(epoch, act), more=more).run("train", lambda *figures: None)
    again = pipeline(name, tmp_path, more=more)
    if act is terminate:  # the epoch has been brought to its end
        saved = torch.load(again.train.folder / "checkpoints/last.ckpt", weights_only=True)
        assert saved["global_step"] >= (epoch + 1) * 6
    same(finish(again), whole)


def test_the_command_ends_with_the_status_of_sigterm(
    unbroken: tuple[str, Path, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    name, output, _ = unbroken
    beside(output, tmp_path)

    def ends(self: History, *arguments: Any) -> None:
        counted(self, *arguments)
        terminate()

    counted = History.on_train_start
    monkeypatch.setattr(History, "on_train_start", ends)
    assert run.main([name, *small(name), f"output_dir={tmp_path}"]) == 143
    assert "goes on from the last checkpoint" in capsys.readouterr().err


def test_the_clocks_go_on(unbroken: tuple[str, Path, Any], tmp_path: Path) -> None:
    name, output, _ = unbroken
    beside(output, tmp_path)
    with pytest.raises(Terminated):
        pipeline(name, tmp_path, Stop(1, 2, terminate)).run("train", lambda *figures: None)
    again = pipeline(name, tmp_path)
    again.run("train", lambda *figures: None)
    columns = read_columns(again.train.folder / "metrics.csv")
    for clock in CLOCKS:
        assert (columns[clock] >= 0).all() and (columns[clock][1:] >= columns[clock][:-1]).all()


def test_a_signal_to_another_process_in_the_last_validation_is_known_when_the_training_ends(tmp_path: Path) -> None:
    def reduce(asked: torch.Tensor, reduce_op: str) -> torch.Tensor:
        return asked + 1

    strategy = SimpleNamespace(root_device=torch.device("cpu"), reduce=reduce)
    stop = WithinEpoch(tmp_path / "last.ckpt")
    stop.on_fit_end(SimpleNamespace(world_size=2, strategy=strategy), None)
    assert stop.asked


@pytest.mark.parametrize("minutes", ["0", "-1", ".inf", "1e300"])
def test_minutes_that_are_none(minutes: str) -> None:
    with pytest.raises(UserError, match="checkpoint_minutes"):
        override(named("tiger_tiny"), [f"train.checkpoint_minutes={minutes}"])
