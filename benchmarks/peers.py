"""Peers that need an environment of their own: making it, and talking to the worker that runs in it."""

import json
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

from benchmarks.measure import Work

CORNAC, RECBOLE = Path(".venv-peers/bin/python"), Path(".venv-recbole/bin/python")
HALF = ".installing"
"""There until all is installed: what was interrupted is made again."""
RECBOLE_PINS = (
    "numpy==1.26.4 pandas==2.2.3 scipy==1.14.1 scikit-learn==1.5.2 PyYAML==6.0.3 tqdm==4.70.1 colorlog==4.7.2 "
    "colorama==0.4.4 texttable==1.7.2 tensorboard==2.21.0 setuptools==80.10.2"
)
"""What RecBole 1.2.1 imports here, without ray, which has no wheel for Python 3.12; it needs NumPy before 2."""


class Peer:
    """A worker: one JSON job per line on its stdin, one JSON answer per line on its stdout.

    Args:
        python: its interpreter; `install(python)` makes it where it is absent.
        script: the worker, beside this file.
        save: writes the problem to the path that the worker is given.
    """

    def __init__(
        self, python: Path, install: Callable[[Path], None], script: str, save: Callable[[Path], object]
    ) -> None:
        if not python.exists() or (python.parent.parent / HALF).exists():
            install(python)
        self.folder = tempfile.TemporaryDirectory()
        problem, self.log = Path(self.folder.name) / "problem.npz", Path(self.folder.name) / "log.txt"
        save(problem)
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                [python.absolute(), "-P", Path(__file__).with_name(script), problem],  # not our tokenizers.py
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True,
            )  # fmt: skip

    def ask(self, job: str, **arguments: Any) -> dict[str, float]:
        assert self.process.stdin and self.process.stdout
        print(json.dumps({"job": job, **arguments}), file=self.process.stdin, flush=True)
        if answer := self.process.stdout.readline():
            return cast(dict[str, float], json.loads(answer))
        said = self.log.read_text()[-2000:]
        raise SystemExit(f"{said}\nthe peer's process ended with code {self.process.wait()} at the job {job!r}")

    def work(self, job: str, **arguments: Any) -> Work:
        answer = self.ask(job, **arguments)
        return Work(int(answer.get("samples", answer.get("users", 0))), answer["seconds"])


def install_cornac(python: Path) -> None:
    """With this environment's torch and transformers and cornac 3.0.1."""
    import transformers

    _install(python, [f"transformers=={transformers.__version__}", "cornac==3.0.1"])


def install_recbole(python: Path) -> None:
    """With this environment's torch and RecBole 1.2.1."""
    _install(python, RECBOLE_PINS.split(), ["--no-deps", "recbole==1.2.1"])


def _install(python: Path, *packages: list[str]) -> None:
    import torch

    print(f"making {python.parent.parent} (two or three minutes)", file=sys.stderr)
    half = python.parent.parent / HALF
    half.parent.mkdir(parents=True, exist_ok=True)
    half.touch()
    subprocess.run([sys.executable, "-m", "venv", python.parent.parent], check=True)
    pip = [str(python), "-m", "pip", "install", "--quiet"]
    for some in ([f"torch=={torch.__version__.split('+')[0]}"], *packages):
        subprocess.run([*pip, *some], check=True)
    half.unlink()
