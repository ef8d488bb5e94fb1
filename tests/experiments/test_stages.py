import errno
import json
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from filelock import FileLock

from experiments import stages
from experiments.stages import Stage, process_rank, stand_alone, started_with_others
from sid.errors import UserError


class Work:
    """A stage function that counts its calls and can fail after half its work."""

    def __init__(self, fails: BaseException | None = None) -> None:
        self.calls, self.fails = 0, fails

    def __call__(self, folder: Path) -> dict[str, Any]:
        self.calls += 1
        (folder / "half.txt").write_text("first")
        if self.fails:
            raise self.fails
        (folder / "whole.txt").write_text("second")
        return {"answer": 42}


def stage(tmp_path: Path, **inputs: Any) -> Stage:
    made = Stage("count", tmp_path / "x", inputs)
    return Stage("count", tmp_path / made.hash, inputs)


def run(made: Stage, work: Work, force: bool = False) -> dict[str, Any]:
    return made.run(work, force, lambda line: None)


def test_a_finished_stage_is_reused_and_a_changed_config_is_another_stage(tmp_path: Path) -> None:
    work = Work()
    assert run(stage(tmp_path, a=1), work) == run(stage(tmp_path, a=1), work) == {"answer": 42}
    assert work.calls == 1
    run(stage(tmp_path, a=2), work)
    assert work.calls == 2


def test_an_interrupted_stage_is_never_taken_for_finished(tmp_path: Path) -> None:
    made, work = stage(tmp_path), Work(fails=KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        run(made, work)
    assert (made.folder / "half.txt").exists()
    assert made.figures() is None
    assert run(made, Work()) == {"answer": 42}


def test_force_rebuilds(tmp_path: Path) -> None:
    work = Work()
    run(stage(tmp_path), work)
    run(stage(tmp_path), work, force=True)
    assert work.calls == 2


def test_a_stage_in_the_folder_of_another_leaves_its_files_alone(tmp_path: Path) -> None:
    run(Stage("train", tmp_path / "run", {}), Work())
    for force in (False, True):
        run(Stage("evaluate", tmp_path / "run", {}, resumes=True, owns_folder=False), Work(), force)
        assert (tmp_path / "run" / "train.manifest.json").exists()


def test_damage_is_named_with_file_and_way_out(tmp_path: Path) -> None:
    made = stage(tmp_path)
    run(made, Work())
    (made.folder / "half.txt").write_text("fir")
    with pytest.raises(UserError, match=r"half\.txt is damaged.*force=count"):
        made.figures()
    (made.folder / "half.txt").unlink()
    with pytest.raises(UserError, match=r"lacks its file half\.txt.*force=count"):
        made.figures()
    made.manifest.write_text(made.manifest.read_text()[:40])
    with pytest.raises(UserError, match=r"count\.manifest\.json is damaged"):
        made.figures()


def test_a_spare_file_may_go(tmp_path: Path) -> None:
    made = Stage("count", tmp_path / "x", {}, spare="half.txt")
    run(made, Work())
    (made.folder / "half.txt").unlink()
    assert made.figures() == {"answer": 42}


def test_a_finished_stage_is_reused_where_nothing_can_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*arguments: Any, **options: Any) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", str(tmp_path))

    made, work = stage(tmp_path, a=1), Work()
    run(made, work)
    monkeypatch.setattr(FileLock, "acquire", refuse)
    assert run(made, work) == {"answer": 42} and work.calls == 1
    with pytest.raises(UserError, match="could not write .*Permission denied"):
        run(made, work, force=True)
    with pytest.raises(UserError, match="could not write .*Permission denied"):
        run(stage(tmp_path, a=2), work)


def test_a_full_disk_leaves_nothing_finished_and_says_so(tmp_path: Path) -> None:
    made = stage(tmp_path)
    full = OSError(errno.ENOSPC, "No space left on device", str(made.folder / "whole.txt"))
    with pytest.raises(UserError, match=r"could not write .*whole\.txt: No space left on device.*make room"):
        run(made, Work(fails=full))
    assert made.figures() is None


def test_a_file_where_the_output_folder_should_be_is_told(tmp_path: Path) -> None:
    (tmp_path / "output").write_text("")
    for made in (Stage("count", tmp_path / "output/x", {}), Stage("count", tmp_path / "output/artifacts/x", {})):
        with pytest.raises(UserError, match="could not write .*output.* choose another output_dir"):
            run(made, Work())


def test_a_file_of_others_that_must_not_be_read_is_named(tmp_path: Path) -> None:
    elsewhere = PermissionError(errno.EACCES, "Permission denied", "/raw/reviews.json.gz")
    with pytest.raises(UserError, match=r"stage count failed at /raw/reviews\.json\.gz: Permission denied"):
        run(stage(tmp_path), Work(fails=elsewhere))
    closed = PermissionError(errno.EACCES, "Permission denied", str(tmp_path.parent))
    with pytest.raises(UserError, match="could not write .*choose another output_dir"):
        run(stage(tmp_path, a=1), Work(fails=closed))
    with pytest.raises(UserError, match="nothing.gz cannot be read: No such file"):
        stages.raw_hash(tmp_path / "nothing.gz", tmp_path / "notes.json")
    with pytest.raises(UserError, match="cannot be read: Is a directory"):
        stages.raw_hash(tmp_path, tmp_path / "notes.json")


def test_two_processes_that_want_one_stage_build_it_once(tmp_path: Path) -> None:
    made, work = stage(tmp_path), Work()
    threads = [Thread(target=run, args=(made, work)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert work.calls == 1


def launched(monkeypatch: pytest.MonkeyPatch, environment: dict[str, str]) -> None:
    """What a launcher has set, and nothing of another."""
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "NODE_RANK", "SLURM_PROCID", "SLURM_NTASKS"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)


@pytest.mark.parametrize(
    ("environment", "rank"),
    [
        ({}, 0),
        ({"RANK": "3"}, 3),
        ({"SLURM_PROCID": "1"}, 1),
        ({"LOCAL_RANK": "1"}, 1),
        ({"NODE_RANK": "2"}, 2),
        ({"SLURM_PROCID": "0", "LOCAL_RANK": "1"}, 1),
    ],
)
def test_the_rank_is_known_under_every_launcher(
    environment: dict[str, str], rank: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    launched(monkeypatch, environment)
    assert process_rank() == rank


@pytest.mark.parametrize(
    ("environment", "several"),
    [
        ({}, False),
        ({"RANK": "0", "WORLD_SIZE": "2"}, True),
        ({"RANK": "0", "WORLD_SIZE": "1"}, False),
        ({"SLURM_PROCID": "0", "SLURM_NTASKS": "4"}, True),
        ({"SLURM_NTASKS": "4"}, False),  # in an allocation, but not within srun
        ({"LOCAL_RANK": "1", "WORLD_SIZE": "2"}, False),  # Lightning's own, after the first has done what is forced
    ],
)
def test_processes_that_a_launcher_starts_at_once_are_known(
    environment: dict[str, str], several: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    launched(monkeypatch, environment)
    assert started_with_others() == several
    if "RANK" not in environment:
        stand_alone()
        assert not started_with_others()
        assert process_rank() == int(environment.get("LOCAL_RANK", "0"))


def test_a_collective_stage_takes_no_lock_beyond_the_first_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = Stage("train", tmp_path / "run", {}, collective=True)
    made.folder.mkdir()
    monkeypatch.setenv("SLURM_PROCID", "1")
    with FileLock(tmp_path / ".run.lock"):
        assert run(made, Work()) == {"answer": 42}


def test_a_collective_stage_that_others_work_on_ends_where_its_further_processes_would_not_wait(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    launched(monkeypatch, {"RANK": "0", "WORLD_SIZE": "2"})
    with (
        FileLock(tmp_path / ".run.lock"),
        pytest.raises(stages.TakenError, match="another run is working on .*run; repeat the command when it has ended"),
    ):
        run(Stage("train", tmp_path / "run", {}, collective=True), Work())
    finished = Stage("train", tmp_path / "run", {}, collective=True)
    run(finished, Work())
    with FileLock(tmp_path / ".run.lock"):
        assert run(finished, Work()) == {"answer": 42}, "what is finished is reused while others test it"


def test_a_folder_of_another_configuration_is_refused_and_a_guest_stage_rebuilt(tmp_path: Path) -> None:
    run(Stage("train", tmp_path / "run", {"a": 1}), Work())
    with pytest.raises(UserError, match="belongs to another configuration"):
        Stage("train", tmp_path / "run", {"a": 2}).figures()
    guest = Stage("evaluate", tmp_path / "run", {"a": 1}, resumes=True, owns_folder=False)
    run(guest, Work())
    newer = Stage("evaluate", tmp_path / "run", {"a": 2}, resumes=True, owns_folder=False)
    assert newer.figures() is None
    built = run(newer, Work())
    assert newer.figures() == built, "what it wrote itself counts as damaged"


def test_the_manifest_says_what_went_in(tmp_path: Path) -> None:
    made = stage(tmp_path, a=1)
    run(made, Work())
    manifest = json.loads(made.manifest.read_text())
    assert manifest["inputs"] == {"a": 1}
    assert set(manifest["files"]) == {"half.txt", "whole.txt"}


def test_a_raw_file_is_read_again_only_when_it_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    raw, notes = tmp_path / "raw.gz", tmp_path / "artifacts" / "raw_hashes.json"
    raw.write_bytes(b"one")
    first = stages.raw_hash(raw, notes)
    assert first == stages.file_hash(raw)
    with monkeypatch.context() as patch:
        patch.setattr(stages, "file_hash", lambda path: pytest.fail(f"{path} was read again"))
        assert stages.raw_hash(raw, notes) == first
    (second := tmp_path / "second.gz").write_bytes(b"two")
    stages.raw_hash(second, notes)
    with monkeypatch.context() as patch:
        patch.setattr(stages, "file_hash", lambda path: pytest.fail(f"{path} was read again"))
        assert stages.raw_hash(raw, notes) == first, "what is noted of one file stays beside another's"
    raw.write_bytes(b"other")
    assert stages.raw_hash(raw, notes) == stages.file_hash(raw) != first
    for damaged in ("{half", "[1]", '{"x": 3}', json.dumps({str(raw.resolve()): None})):
        notes.write_text(damaged)
        assert stages.raw_hash(raw, notes) == stages.file_hash(raw)
    notes.write_text("{half")
    assert stages.raw_hash(raw, notes) == stages.file_hash(raw)
