"""The peer that needs an environment of its own: making it, and talking to the worker that runs in it."""

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, cast

from benchmarks.measure import Work
from benchmarks.problem import Problem

PYTHON = Path(".venv-peers/bin/python")


class Cornac:
    """The worker of `peer_cornac`, in its own environment."""

    def __init__(self, python: Path, problem: Problem) -> None:
        if not python.exists():
            install_peers(python)
        self.folder = tempfile.TemporaryDirectory()
        path = Path(self.folder.name) / "problem.npz"
        problem.save(path)
        self.process = subprocess.Popen(
            [python, Path(__file__).with_name("peer_cornac.py"), path],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
        )  # fmt: skip
        self.ask("train", batch_size=256, batches=1)

    def ask(self, job: str, **arguments: Any) -> dict[str, float]:
        assert self.process.stdin and self.process.stdout
        print(json.dumps({"job": job, **arguments}), file=self.process.stdin, flush=True)
        answer = self.process.stdout.readline()
        if not answer:
            raise SystemExit(f"cornac's process ended with code {self.process.wait()} at the job {job!r}")
        return cast(dict[str, float], json.loads(answer))

    def work(self, job: str, **arguments: Any) -> Work:
        answer = self.ask(job, **arguments)
        return Work(int(answer.get("samples", answer.get("users", 0))), answer["seconds"])


def install_peers(python: Path) -> None:
    """Makes the peers' environment, with this environment's torch and transformers and cornac 3.0.1."""
    import torch
    import transformers

    print(f"making {python.parent.parent} (about two minutes)", file=sys.stderr)
    subprocess.run([sys.executable, "-m", "venv", python.parent.parent], check=True)
    pip = [str(python), "-m", "pip", "install", "--quiet"]
    subprocess.run([*pip, f"torch=={torch.__version__.split('+')[0]}"], check=True)
    subprocess.run([*pip, f"transformers=={transformers.__version__}", "cornac==3.0.1"], check=True)
