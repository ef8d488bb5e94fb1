"""Sweeps: the file in wandb's format, trials that are killed, given up or fail, and what `wandb agent` would call."""

import itertools
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any, ClassVar

import pytest
import yaml  # type: ignore[import-untyped]

from datamodules.synthetic import SyntheticConfig
from experiments import sweep_trial
from experiments.named import named
from experiments.overrides import override
from experiments.pipeline import Pipeline
from experiments.sweep import at_work, main, read
from experiments.sweep_space import FOLDER, Span, read_sweep
from sid.errors import UserError

GRID: dict[str, Any] = {
    "method": "grid",
    "metric": {"name": "val/ndcg@10", "goal": "maximize"},
    "parameters": {"model.width": {"values": [16, 32]}, "model.num_layers": {"values": [1, 2]}},
}
SMALL = [
    "data.num_users=60",
    "data.num_items=60",
    "data.num_categories=3",
    "train.max_epochs=2",
    "train.validate_every=1",
]


def written(folder: Path, **changes: Any) -> Path:
    path = folder / "own.yaml"
    path.write_text(yaml.safe_dump({**GRID, **changes}))
    return path


def found(output: Path) -> list[dict[str, Any]]:
    (path,) = output.glob("sweeps/*/sweep.json")
    trials: list[dict[str, Any]] = json.loads(path.read_text())["trials"]
    return trials


class Faked:
    """A pipeline whose training is a number: wider and deeper is better."""

    calls: ClassVar[list[dict[str, Any]]] = []
    killed_at: ClassVar[int] = 0
    output: ClassVar[Path]

    def __init__(self, config: Any, say: Any, watchers: list[Any]) -> None:
        assert config.train.devices == "1"
        self.model, self.train = config.model, self
        self.folder = self.output / f"run-{config.model.width}-{config.model.num_layers}"
        self.figures = {"train": {"parameters": 1, "epochs": 2, "seconds": 1.0, "cpu_seconds": 1.0}}

    def run(self, last: str, show: Any) -> None:
        assert last == "train", "a sweep never reads the test"
        if len(self.calls) + 1 == self.killed_at:
            type(self).killed_at = 0
            raise KeyboardInterrupt
        self.calls.append({"width": self.model.width, "num_layers": self.model.num_layers})
        value = self.model.width / 100 + self.model.num_layers / 1000
        self.folder.mkdir(exist_ok=True)
        (self.folder / "metrics.csv").write_text(f"epoch,val/ndcg@10\n1,{value / 2}\n2,{value}\n3,\n")


@pytest.fixture
def faked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> type[Faked]:
    monkeypatch.setattr(sweep_trial, "Pipeline", Faked)
    monkeypatch.setattr(Faked, "calls", [])
    monkeypatch.setattr(Faked, "killed_at", 0)
    monkeypatch.setattr(Faked, "output", tmp_path, raising=False)
    return Faked


def test_a_grid_is_every_combination_once_and_the_best_is_first(faked: type[Faked], tmp_path: Path) -> None:
    command = ["sasrec_tiny", str(written(tmp_path)), f"output_dir={tmp_path}"]
    assert main(command) == 0
    asked = sorted((call["width"], call["num_layers"]) for call in faked.calls)
    assert asked == list(itertools.product([16, 32], [1, 2]))
    trials = found(tmp_path)
    assert [one["value"] for one in trials] == pytest.approx([0.322, 0.321, 0.162, 0.161])
    assert trials[0]["values"] == {"model.width": 32, "model.num_layers": 2}
    page = next(tmp_path.glob("sweeps/*/sweep.html")).read_text()
    assert page.count("<svg") == 2 and "0.3220" in page
    assert not re.search(r"<(script|link|img|iframe)|https?://|@import|url\((?!#)", page)
    assert main(command) == 0 and len(faked.calls) == 4, "all are there already"


def test_a_killed_trial_goes_on_and_none_is_lost(faked: type[Faked], tmp_path: Path) -> None:
    command = ["sasrec_tiny", str(written(tmp_path)), f"output_dir={tmp_path}"]
    faked.killed_at = 3
    assert main(command) == 130
    assert len(found(tmp_path)) == 2
    assert main(command) == 0
    asked = sorted((call["width"], call["num_layers"]) for call in faked.calls)
    assert asked == list(itertools.product([16, 32], [1, 2]))
    assert [one["state"] for one in found(tmp_path)] == ["done"] * 4


def test_trials_of_other_data_or_of_another_experiment_are_not_taken_for_these(
    faked: type[Faked], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    raw = tmp_path / "raw.csv"
    monkeypatch.setattr(SyntheticConfig, "raw_files", lambda self: [raw])
    command = ["sasrec_tiny", str(written(tmp_path)), f"output_dir={tmp_path}"]
    for content in ("a", "b", "a"):
        raw.write_text(content)
        assert main(command) == 0
    assert len(faked.calls) == 8
    changed = override(named("sasrec_tiny"), ["train.ema=0.5"])
    monkeypatch.setattr("experiments.sweep.named", lambda name: changed)
    assert main(command) == 0 and len(faked.calls) == 12
    assert main([*command, "logger=wandb"]) == 0 and len(faked.calls) == 12, "which changes no result"


def test_a_trial_that_cannot_be_fails_alone(faked: type[Faked], tmp_path: Path) -> None:
    path = written(tmp_path, parameters={"model.num_heads": {"values": [2, 5]}})
    for _ in range(2):  # the second time what has failed is tried again
        assert main(["sasrec_tiny", str(path), f"output_dir={tmp_path}"]) == 2
        good, bad = found(tmp_path)
        assert (good["state"], bad["state"]) == ("done", "failed")
        assert "a divisor of model.width=64" in bad["problem"]
    assert len(faked.calls) == 1


def test_a_metric_that_there_is_not_ends_the_sweep(
    faked: type[Faked], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = written(tmp_path, metric={"name": "val/ndgc@10", "goal": "maximize"})
    assert main(["sasrec_tiny", str(path), f"output_dir={tmp_path}"]) == 2
    assert "metric.name=val/ndgc@10: expected one of val/ndcg@10" in capsys.readouterr().err
    assert len(faked.calls) == 1


def test_a_trial_is_the_run_that_make_exp_has_on_one_device() -> None:
    trial = sweep_trial.trial_config("sasrec_tiny", ["train.max_epochs=8"], {"model.width": 32})
    run = override(named("sasrec_tiny"), ["train.max_epochs=8", "model.width=32", "train.devices=1"])
    assert Pipeline(trial).train.folder == Pipeline(run).train.folder


def test_first_values_that_do_not_go_together_fail_as_a_trial_alone(faked: type[Faked], tmp_path: Path) -> None:
    parameters = {"sequences.stride": {"values": [20, 10]}, "sequences.max_items": {"values": [10, 20]}}
    assert main(["causal_tiny", str(written(tmp_path, parameters=parameters)), f"output_dir={tmp_path}"]) == 2
    assert sorted(one["state"] for one in found(tmp_path)) == ["done"] * 3 + ["failed"]


def test_values_that_are_right_together_alone_are_taken(faked: type[Faked], tmp_path: Path) -> None:
    parameters = {"tokenizer": {"value": "rqkmeans"}, "tokenizer.balanced": {"values": [False, True]}}
    path = written(tmp_path, parameters=parameters)
    assert main(["causal_tiny", str(path), f"output_dir={tmp_path}"]) == 0
    assert [one["values"]["tokenizer"] for one in found(tmp_path)] == ["rqkmeans"] * 2


@pytest.mark.parametrize(
    ("key", "values", "message"),
    [
        ("split.learn_validation", [False, True], "split.learn_validation=true: expected false: a sweep chooses by"),
        ("train.devices", [1, 2], "train.devices=2: expected 1: a trial is one process"),
    ],
)
def test_no_trial_may_be_several_processes_or_learn_its_validation(
    key: str, values: list[Any], message: str, faked: type[Faked], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = written(tmp_path, parameters={key: {"values": values}})
    assert main(["causal_tiny", str(path), f"output_dir={tmp_path}"]) == 2
    assert message in capsys.readouterr().err and not faked.calls


def test_a_key_may_fit_the_values_of_the_sweep_alone(faked: type[Faked], tmp_path: Path) -> None:
    path = written(tmp_path, parameters={"train.max_epochs": {"values": [40, 80]}})
    assert main(["causal_tiny", str(path), "train.validate_every=40", f"output_dir={tmp_path}"]) == 0


def test_a_key_that_some_trials_read_is_drawn_for_all_and_one_that_none_reads_is_refused(
    faked: type[Faked], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    parameters = {"split.kind": {"values": ["leave_one_out", "time"]}, "split.test_share": {"values": [0.1, 0.2]}}
    path = written(tmp_path, parameters=parameters)
    assert main(["tiger_tiny", str(path), "split.validation_share=0.2", f"output_dir={tmp_path}"]) == 0
    assert [one["state"] for one in found(tmp_path)] == ["done"] * 4
    assert main(["tiger_tiny", str(path), "sequences.stride=5", f"output_dir={tmp_path}"]) == 2
    assert "sequences.stride: it changes nothing, as tiger_tiny learns from prefixes" in capsys.readouterr().err
    path = written(tmp_path, parameters={"split.test_share": {"values": [0.1, 0.2]}})
    assert main(["tiger_tiny", str(path), f"output_dir={tmp_path}"]) == 2
    assert "split.test_share: it changes nothing, as split.kind is leave_one_out" in capsys.readouterr().err


def test_half_a_line_of_a_killed_command_is_cut_off_and_a_damaged_log_is_told(
    faked: type[Faked], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["sasrec_tiny", str(written(tmp_path)), f"output_dir={tmp_path}"]
    assert main(command) == 0
    log = read(command).folder / sweep_trial.LOG
    whole = log.read_bytes()
    for _ in range(2):
        log.write_bytes(log.read_bytes() + b'{"op_code": 5, "tri')
        assert main(command) == 0
        assert log.read_bytes().startswith(whole) and b'"tri{' not in log.read_bytes()
    assert len(faked.calls) == 4
    log.write_bytes(b"nothing\n" + whole)
    assert main(command) == 2
    assert "trials.log is damaged" in capsys.readouterr().err


@pytest.mark.parametrize("method", ["random", "bayes"])
def test_a_killed_sweep_does_not_draw_the_same_again(method: str, faked: type[Faked], tmp_path: Path) -> None:
    parameters = {"optimizer.learning_rate": {"min": 1e-4, "max": 1e-2, "distribution": "log_uniform_values"}}
    path = written(tmp_path, method=method, parameters=parameters, run_cap=6)
    faked.killed_at = 4
    assert main(["sasrec_tiny", str(path), f"output_dir={tmp_path}"]) == 130
    assert main(["sasrec_tiny", str(path), f"output_dir={tmp_path}"]) == 0
    rates = [one["values"]["optimizer.learning_rate"] for one in found(tmp_path)]
    assert len(rates) == len(set(rates)) == 6


def test_two_commands_do_not_work_on_one_sweep(
    faked: type[Faked], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["sasrec_tiny", str(written(tmp_path)), f"output_dir={tmp_path}"]
    for name, worker in (("sweep", 0), ("job-2", 2)):
        read(command).folder.mkdir(parents=True, exist_ok=True)
        with at_work(read(command).folder, worker):
            assert main(command) == 2
        assert f"another process works on this sweep: it holds {read(command).folder}/.{name}.lock" in (
            capsys.readouterr().err
        )
    assert not faked.calls


@pytest.mark.parametrize("method", ["random", "bayes"])
def test_spans_are_drawn_between_their_ends(method: str, faked: type[Faked], tmp_path: Path) -> None:
    parameters = {"model.width": {"values": [32, 64]}, "optimizer.learning_rate": {"min": 1e-4, "max": 1e-2}}
    parameters["optimizer.learning_rate"]["distribution"] = "log_uniform_values"
    parameters["model.negatives"] = {"min": 3, "max": 9}
    parameters["model.num_layers"] = {"min": 1, "max": 5, "q": 2.0, "distribution": "q_uniform"}
    path = written(tmp_path, method=method, parameters=parameters, run_cap=8)
    assert main(["sasrec_tiny", str(path), f"output_dir={tmp_path}"]) == 0
    trials = found(tmp_path)
    assert len(trials) == 8
    for one in trials:
        assert 1e-4 <= one["values"]["optimizer.learning_rate"] <= 1e-2
        assert one["values"]["model.negatives"] in range(3, 10)
        assert one["values"]["model.num_layers"] in (2, 4) and isinstance(one["values"]["model.num_layers"], int)
    assert len({one["values"]["optimizer.learning_rate"] for one in trials}) == 8


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"method": "gird"}, "method=gird: expected grid or random or bayes"),
        ({"metric": {"name": "test/ndcg@10"}}, "metric.name=test/ndcg@10: expected a column of metrics.csv, val/"),
        ({"metric": "val/ndcg@10"}, "metric='val/ndcg@10': expected a mapping"),
        ({"parameters": {}}, "parameters={}: expected one or more"),
        ({"parameters": {"seed": 3}}, "parameters.seed=3: expected value, values, or min and max"),
        ({"parameters": {"seed": {"values": []}}}, "expected a list of values"),
        ({"parameters": {"seed": {"min": 3, "max": 1}}}, "expected min below max"),
        ({"parameters": {"seed": {"min": 1, "max": "x"}}}, "numbers min and max"),
        ({"parameters": {"seed": {"min": 1, "max": 3, "distribution": "beta"}}}, "distribution=beta: expected uniform"),
        ({"parameters": {"seed": {"min": 1, "max": 3, "distribution": ["beta"]}}}, "distribution=['beta']: expected"),
        ({"parameters": {"seed": {"min": 0, "max": 3, "distribution": "log_uniform_values"}}}, "min above 0"),
        ({"parameters": {"seed": {"values": [1], "probabilities": [1]}}}, "has probabilities, which is not understood"),
        ({"parameters": {"seed": {"min": 1, "max": 3}}}, "method=grid: expected random or bayes: seed is not a list"),
        ({"method": "random", "parameters": {"seed": {"min": 1, "max": 3}}}, "run_cap=None: expected the number"),
        ({"early_terminate": {"type": "hyperband", "max_iter": 9}}, "early_terminate key=max_iter: expected type"),
        ({"parameters": {"seed": {"min": 1, "max": 3, "q": 2, "distribution": "q_uniform"}}}, "two multiples of q"),
        ({"parameters": {"seed": {"min": 1, "max": 3, "q": 2}}}, "q with distribution: q_uniform alone"),
        ({"early_terminate": {"type": "median"}}, "early_terminate.type=median: expected hyperband"),
        ({"paramters": {}}, "key=paramters: expected one of name"),
    ],
)
def test_a_file_that_wandb_would_not_take_is_refused(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=re.escape(message)):
        read_sweep(written(tmp_path, **changes))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["tiger_tiny"], "which experiment and sweep?"),
        (["tiger_tiny", "codebok"], "there is no sweep 'codebok': expected a file, or one of codebook"),
        (["tiger_tinny", "codebook"], "did you mean tiger_tiny?"),
        (["tiger_tiny", "codebook", "jobs=0"], "jobs=0: expected at least 1"),
        (["tiger_tiny", "codebook", "stage=train"], "for single runs"),
        (["tiger_tiny", "codebook", "model.widht=3"], "did you mean model.width"),
        (["sasrec_tiny", "codebook"], "sasrec_tiny goes by item numbers and has no tokenizer"),
        (["tiger_tiny", "codebook", "train.devices=2"], "a trial is one process"),
    ],
)
def test_mistakes_are_told(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_value_of_every_sweep_can_be_configured(path: Path) -> None:
    sweep = read_sweep(path)
    command = yaml.safe_load(path.read_text())["command"]
    experiment = named(command[4])
    for key, values in sweep.choices.items():
        for value in values:
            override(experiment, [f"{key}={value}"])
    for key, span in sweep.spans.items():
        assert isinstance(span, Span)
        override(experiment, [f"{key}={span.low}"])


def test_size_and_depth_are_two_axes_of_the_codebooks() -> None:
    def sizes(*assignments: str) -> list[int]:
        return override(named("tiger_beauty"), list(assignments)).tokenizer.codebook_sizes

    assert sizes("tokenizer.size=64", "tokenizer.depth=4") == [64] * 4
    assert sizes("tokenizer.depth=2") == [256] * 2
    assert sizes("tokenizer=opq", "tokenizer.size=16") == [16] * 16
    with pytest.raises(UserError, match="tokenizer.size=many: expected a whole number"):
        sizes("tokenizer.size=many")
    with pytest.raises(UserError, match="nothing beside tokenizer.codebook_sizes"):
        sizes("tokenizer.size=64", "tokenizer.codebook_sizes=[64,64]")


def test_real_trials_side_by_side_share_their_stages(tmp_path: Path) -> None:
    path = written(
        tmp_path,
        early_terminate={"type": "hyperband", "min_iter": 1, "eta": 2},
        parameters={"model.width": {"values": [16, 32]}, "model.num_layers": {"value": 1}},
    )
    assert main(["sasrec_tiny", str(path), *SMALL, "jobs=2", f"output_dir={tmp_path}"]) == 0
    trials = found(tmp_path)
    assert sorted(one["values"]["model.width"] for one in trials) == [16, 32]
    assert all(one["value"] > 0 for one in trials)
    assert len(list((tmp_path / "artifacts/prepare").glob("[!.]*"))) == 1
    assert not list(tmp_path.rglob("test.json"))


def test_what_wandbs_agent_calls(tmp_path: Path) -> None:
    """The agent fills in the command of the file, and tells the run and the sweep by variables."""
    pytest.importorskip("wandb")
    parts = {
        "${env}": ["/usr/bin/env"],
        "${interpreter}": [sys.executable],
        "${args_no_hyphens}": ["optimizer.learning_rate=0.002", *SMALL, f"output_dir={tmp_path}"],
        "tiger_beauty": ["sasrec_tiny"],
    }
    template = yaml.safe_load((FOLDER / "codebook.yaml").read_text())["command"]
    command = [word for part in template for word in parts.get(part, [part])]
    told = {"WANDB_MODE": "offline", "WANDB_RUN_ID": "agent123", "WANDB_SWEEP_ID": "sweep1", "WANDB_SILENT": "true"}
    subprocess.run(command, env={**os.environ, **told}, check=True, capture_output=True, timeout=240)
    (folder,) = tmp_path.glob("wandb/offline-run-*")
    assert folder.name.endswith("-agent123")
