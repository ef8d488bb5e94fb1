"""Where a result comes from: commit, versions, machine, command."""

import platform
import shlex
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

PACKAGES = ("torch", "lightning", "torchmetrics", "numpy", "pyarrow", "daft", "datasets", "faiss-cpu", "faiss-gpu",
            "sentence-transformers", "transformers", "scikit-learn", "omegaconf", "wandb")  # fmt: skip


def _git(*arguments: str) -> str:
    root = Path(__file__).parent
    try:
        done = subprocess.run(["git", *arguments], cwd=root, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return ""
    return done.stdout.strip()


def _versions() -> dict[str, str]:
    found = {}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def provenance(command: str = "") -> dict[str, Any]:
    """Plain data; an empty commit means that the code does not lie in a git checkout.

    Args:
        command: what to type for the same result; "": the command line of this process.
    """
    ours = bool(_git("ls-files", Path(__file__).name))  # installed code may lie in a checkout of something else
    return {
        "commit": _git("rev-parse", "HEAD") if ours else "",
        "dirty": ours and bool(_git("status", "--porcelain")),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "versions": _versions(),
        "threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else platform.processor() or "cpu",
        "command": command or shlex.join(["python", "-m", "experiments.run", *sys.argv[1:]]),
    }
