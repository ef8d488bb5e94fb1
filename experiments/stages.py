"""Stages: functions from files to files, named by the hash of what goes into them (config and parents' hashes).

A stage's manifest is written last, so a half-written stage is never taken for a finished one. A finished stage is
reused after a check of its files.
"""

import errno
import hashlib
import json
import os
import shutil
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from sid.errors import UserError

VERSIONS = {"prepare": 1, "embed": 1, "tokenize": 1, "train": 2, "evaluate": 4}
"""The stages in order. A number is raised when the code of its stage changes what it writes."""
LAST = "last.ckpt"
"""Where an interrupted training goes on."""
FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS}
BARRED = {errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.EEXIST}
"""The folder may not be written to, or a file stands where it should be."""


class TakenError(UserError):
    """Another run works on a stage that the further processes of this one have entered: this one must end."""


def process_rank() -> int:
    """0 in the first or only process of a run under torchrun, SLURM or Lightning's own launcher."""
    if "RANK" in os.environ:
        return int(os.environ["RANK"])
    slurm, local, node = (int(os.environ.get(name, "0")) for name in ("SLURM_PROCID", "LOCAL_RANK", "NODE_RANK"))
    return slurm or local + node  # where Lightning starts the others of a SLURM task, SLURM's is 0 in all of them


def stand_alone() -> None:
    """Makes this process one of its own, where SLURM has started others beside it that have nothing to do with it:
    several runs of one device each in one step of a job, or the agents of a sweep. Before lightning is imported."""
    for name in ("SLURM_NTASKS", "SLURM_PROCID"):
        os.environ.pop(name, None)


def started_with_others() -> bool:
    """Whether torchrun or SLURM has started several processes of this run at once."""
    launchers = {"RANK": "WORLD_SIZE", "SLURM_PROCID": "SLURM_NTASKS"}
    return any(int(os.environ.get(size, "1")) > 1 for rank, size in launchers.items() if rank in os.environ)


def finish_wandb(exit_code: int = 0) -> None:
    """Ends this process's wandb run, if there is one; Lightning would go on in it with another training."""
    if "wandb" in sys.modules:
        sys.modules["wandb"].finish(exit_code)


def fingerprint(value: Any) -> str:
    """12 hex digits of the SHA-256 of a value's canonical JSON."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:12]


def file_hash(path: Path) -> str:
    """SHA-256 of a file. Raises UserError where it cannot be read."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}") from error


def raw_hash(path: Path, notes: Path) -> str:
    """SHA-256 of a raw file, which may be large: it is read only where its size or time of change is not as noted.

    Raises UserError where it cannot be read.
    """
    try:
        stat = path.stat()
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}") from error
    key, now = str(path.resolve()), [stat.st_size, stat.st_mtime_ns]
    known: dict[str, Any] = {}
    with suppress(OSError, ValueError, TypeError):
        known = dict(json.loads(notes.read_text()))
        size, changed, noted = known.get(key, [0, 0, ""])
        if [size, changed] == now:
            return str(noted)
    found = file_hash(path)
    with suppress(OSError):  # a note saves time; what cannot be written is told by the stage
        notes.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(notes, json.dumps({**known, key: [*now, found]}, indent=1) + "\n")
    return found


def require_files(folder: Path, stage: str, files: Mapping[str, str], advice: str) -> None:
    """Raises UserError where a file that a stage wrote is missing, or its SHA-256 is another."""
    for name, expected in files.items():
        path = folder / name
        if not path.is_file():
            raise UserError(f"stage {stage} in {folder} lacks its file {name}. {advice}")
        if file_hash(path) != expected:
            raise UserError(f"{path} is damaged: its contents are not those the stage wrote. {advice}")


def write_atomically(path: Path, text: str) -> None:
    """Writes aside and renames: a reader sees the old file or the whole new one."""
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    aside.write_text(text, encoding="utf-8")
    aside.replace(path)


def write_all(folder: Path, texts: Mapping[str, str]) -> None:
    """Files of a folder that may not be there yet: name -> text. Raises UserError where one cannot be written."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in texts.items():
            write_atomically(folder / name, text)
    except OSError as error:
        raise UserError(f"{error.filename or folder} cannot be written: {error.strerror}") from error


@dataclass(frozen=True)
class Stage:
    """One stage of one configuration.

    `resumes`: what an interrupted attempt left in the folder is kept, and the stage's function goes on from there.
    `owns_folder`: False where the stage adds files to the folder of the stage before it.
    `spare`: a file that nobody misses once the stage is finished.
    `collective`: every process of a distributed run takes part in it; the others are built by one and awaited.
    """

    name: str
    folder: Path
    inputs: dict[str, Any]
    resumes: bool = False
    owns_folder: bool = True
    collective: bool = False
    spare: str = ""

    @property
    def hash(self) -> str:
        return fingerprint(self.inputs)

    @property
    def manifest(self) -> Path:
        return self.folder / f"{self.name}.manifest.json"

    def figures(self) -> dict[str, Any] | None:
        """The figures of the finished stage, None if it is not finished (or, in another's folder, out of date).

        Raises UserError when a file of the finished stage is missing or not what the manifest says.
        """
        if not self.manifest.exists():
            return None
        advice = f"Rebuild it with force={self.name}, or remove {self.folder}."
        try:
            manifest = json.loads(self.manifest.read_text())
            files, figures, inputs = manifest["files"], manifest["figures"], manifest["inputs"]
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(f"{self.manifest} is damaged ({error}). {advice}") from error
        if inputs != self.inputs:
            if self.owns_folder:
                raise UserError(f"{self.manifest} belongs to another configuration. {advice}")
            return None
        require_files(self.folder, self.name, files, advice)
        return figures

    def run(self, build: Callable[[Path], dict[str, Any]], force: bool, say: Callable[[str], None]) -> dict[str, Any]:
        """The stage's figures: reused when it is finished, else from `build(folder)`, which fills the folder.

        Two processes that want the same stage at once: one builds, the other waits and reuses. Where the other is one
        of several that torchrun or SLURM has started for a collective stage, it raises TakenError: they would not wait.
        (torchrun then ends them, as srun does with --kill-on-bad-exit.)
        """
        if self.collective and process_rank():
            return self.figures() or build(self.folder)
        try:
            return self._run_locked(build, force, say)
        except OSError as error:
            where, why = error.filename or self.folder, error.strerror or error
            place, output = Path(str(where)).resolve(), self.folder.parent.resolve()
            ours = place.is_relative_to(output) or output.is_relative_to(place)
            if error.errno in FULL or (error.errno in BARRED and ours):
                raise UserError(
                    f"stage {self.name} could not write {where}: {why}. Nothing of it counts as finished; make room or "
                    "choose another output_dir, and repeat the command."
                ) from error
            raise UserError(f"stage {self.name} failed at {where}: {why}") from error

    def _run_locked(
        self, build: Callable[[Path], dict[str, Any]], force: bool, say: Callable[[str], None]
    ) -> dict[str, Any]:
        lock = FileLock(self.folder.parent / f".{self.folder.name}.lock")
        try:
            self.folder.parent.mkdir(parents=True, exist_ok=True)
            lock.acquire(timeout=0.1)
        except Timeout:
            figures = None if force else self.figures()
            if figures is not None:
                say(f"{self.name}: reused {self.folder}")
                return figures
            if self.collective and started_with_others():
                raise TakenError(
                    f"stage {self.name}: another run is working on {self.folder}; repeat the command when it has ended"
                ) from None
            say(f"{self.name}: another process is working on {self.folder}, waiting for it")
            lock.acquire()
        except OSError:
            figures = None if force else self.figures()
            if figures is None:
                raise
            say(f"{self.name}: reused {self.folder}, which cannot be written to")
            return figures
        try:
            if force:
                self.manifest.unlink(missing_ok=True)
                if self.owns_folder:
                    shutil.rmtree(self.folder, ignore_errors=True)
            figures = self.figures()
            if figures is not None:
                say(f"{self.name}: reused {self.folder}")
                return figures
            if self.folder.exists() and self.owns_folder and not self.resumes:
                shutil.rmtree(self.folder)
            self.folder.mkdir(exist_ok=True)
            self.manifest.unlink(missing_ok=True)  # of an older version, in another stage's folder
            say(f"{self.name}: working in {self.folder}")
            return self._build(build)
        finally:
            lock.release()

    def _build(self, build: Callable[[Path], dict[str, Any]]) -> dict[str, Any]:
        start = time.perf_counter()
        figures = build(self.folder)
        files = {
            str(path.relative_to(self.folder)): file_hash(path)
            for path in sorted(self.folder.rglob("*"))
            if path.is_file() and not path.name.startswith(".") and path.name != self.spare
        }
        manifest = {
            "stage": self.name,
            "hash": self.hash,
            "inputs": self.inputs,
            "figures": figures,
            "seconds": round(time.perf_counter() - start, 1),
            "files": files,
        }
        write_atomically(self.manifest, json.dumps(manifest, indent=1) + "\n")
        return figures
