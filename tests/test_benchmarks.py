"""What a benchmark counts, on work whose amount is known."""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks import huggingface, peers, stages
from benchmarks.measure import Work, interleave, operations, ratio
from benchmarks.problem import LEVELS, Problem, of_run
from datamodules.synthetic import SyntheticConfig
from experiments.run import run as experiment
from models.configs import TigerConfig
from models.hugging_face import to_hugging_face
from sid.decode import beam_search
from sid.errors import UserError
from sid.table import SIDTable
from sid.tokens import PAD


def test_operations_are_those_of_the_products_for_one_sample() -> None:
    def job() -> Work:
        torch.ones(10, 6) @ torch.ones(6, 7)
        return Work(10, 1.0)

    assert operations(job) == 2 * 6 * 7
    assert operations(lambda: Work(10, 1.0)) == 0


def test_contenders_take_turns_after_a_round_that_warms_up() -> None:
    order: list[str] = []

    def contender(name: str, rate: int) -> Work:
        order.append(name)
        return Work(rate, 1.0)

    rates = interleave({"a": lambda: contender("a", 6), "b": lambda: contender("b", 2)}, 3, lambda _: None)
    assert "".join(order) == "ab" + "ba" + "ab" + "ba"
    assert rates["a"] == [6.0] * 3 and rates["b"] == [2.0] * 3 and len(rates["GEMM"]) == 3
    assert ratio(rates["a"], rates["b"]) == (3.0, 3.0, 3.0)
    assert ratio([1.0, 4.0, 9.0], [1.0, 2.0, 3.0]) == (2.0, 1.0, 3.0)


def test_a_worker_imports_packages_not_the_files_beside_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "tokenizers.py").write_text("raise SystemExit('this is benchmarks/tokenizers.py')")
    (tmp_path / "worker.py").write_text(
        "import json, sys, tokenizers\n"
        "for line in sys.stdin:\n"
        "    print(json.dumps({'samples': json.loads(line)['batches'], 'seconds': 2}), flush=True)\n"
    )
    monkeypatch.setattr(peers, "__file__", str(tmp_path / "peers.py"))
    peer = peers.Peer(Path(sys.executable), lambda python: None, "worker.py", lambda path: path.touch())
    assert peer.work("train", batches=6) == Work(6, 2)
    peer.process.terminate()


@pytest.mark.parametrize("learns_from", ["data", "windows"])
def test_a_few_training_batches_are_as_long_as_all_of_them(learns_from: str) -> None:
    """Prefixes come in batches of like length, so the first few of an epoch would be short or long by chance."""
    catalog = SyntheticConfig(num_users=900, num_items=300).build()
    codes_NL = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (300, len(LEVELS))))
    problem = Problem("made up", catalog, SIDTable.resolve(codes_NL, LEVELS))
    data = getattr(problem, learns_from)
    some = list(problem.training_batches(data, 4))
    every = [data.train_parts()(rows) for rows in data.epoch_batches(0)]

    def places_a_row(batches: list[list[Any]]) -> float:
        parts = [part.tokens_BS for batch in batches for part in batch]
        return sum(tokens_BS.numel() for tokens_BS in parts) / sum(map(len, parts))

    assert len(some) == 4
    assert places_a_row(some) == pytest.approx(places_a_row(every), rel=0.1)


@pytest.mark.parametrize("constrained", [False, True])
def test_our_lists_are_those_of_hugging_faces_generate(constrained: bool) -> None:
    torch.manual_seed(0)
    sizes, users, items, beams = (7, 5, 3), 6, 40, 8
    model = TigerConfig(width=16, num_layers=2, num_heads=2, head_width=8, ff_width=32, num_user_tokens=10)
    tiger = model.build(sizes, 20).eval()
    place_N = torch.randperm(7 * 5 * 3)[:items]
    table = SIDTable(torch.stack([place_N // 15, place_N // 3 % 5, place_N % 3], dim=1), sizes)
    tokens_BS = torch.randint(2, tiger.tokens.size, (users, 13))
    tokens_BS[1, 4:] = tokens_BS[2, 1:] = PAD
    with torch.no_grad():
        ours = beam_search(tiger, tiger.begin(tokens_BS), table.trie, beams, constrained)
    prefixes = huggingface.PrefixTable(table, tiger.tokens)
    theirs_BK = huggingface.beam_search(to_hugging_face(tiger), prefixes, tokens_BS, beams, constrained)
    assert torch.equal(ours.items_BK, theirs_BK)
    tokens_NL = tiger.tokens.encode(table.codes_NL)
    for item, allowed_LW in enumerate(prefixes.allowed(tokens_NL, tiger.tokens.size)):
        for level, allowed_W in enumerate(allowed_LW):
            begins_alike_N = (tokens_NL[:, :level] == tokens_NL[item, :level]).all(1)
            assert allowed_W.nonzero()[:, 0].tolist() == tokens_NL[begins_alike_N, level].unique().tolist()


def test_every_stage_stands_beside_the_operations_of_its_products(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(stages, "start_up", lambda: (3.0, 2.0))
    stages.run(["tiger_tiny", "stage=tokenize", "data.num_users=60", "tokenizer.epochs=12"])
    rows = {cells[1]: cells for line in capsys.readouterr().out.splitlines() if len(cells := line.split()) == 13}
    assert list(rows) == ["prepare", "embed", "tokenize"]
    assert [float(cells[7]) > 0 for cells in rows.values()] == [False, False, True]
    assert stages.Spent(9.0, 8.0, 3e12, 1e12).cells() == ["9.0", "8.0", "3,000.0", "3.0", "38%"]


def test_a_classic_model_has_its_stages_and_a_wrong_one_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(stages, "start_up", lambda: (3.0, 2.0))
    stages.run(["sasrec_tiny", "data.num_users=60"])
    out = capsys.readouterr().out
    assert "prepare" in out and "tokenize" not in out and "train" not in out
    with pytest.raises(UserError, match="stage=tokenize: .*one of prepare, train, evaluate"):
        stages.run(["sasrec_tiny", "stage=tokenize"])
    with pytest.raises(UserError, match="unknown key 'force'"):
        stages.run(["tiger_tiny", "force=embed"])


def test_a_run_that_is_no_tiger_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DATA_DIR", raising=False)
    small = ["data.num_users=60", "train.max_epochs=1", "stage=train", f"output_dir={tmp_path}"]
    for name, more, message in (
        ("causal_tiny", [], "--run=.*a TIGER with 2000 user tokens that reads 20 items"),
        ("tiger_tiny", [], "--run=.*a TIGER with 2000 user tokens"),
        ("tiger_tiny", ["model.num_user_tokens=2000"], "200 items .* but the catalogue is .* 2000 items"),
    ):
        run = experiment([name, *small, *more]).train.folder
        with pytest.raises(UserError, match=message):
            of_run(run)
