"""What a result says of where it comes from."""

import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from experiments import provenance


def test_code_installed_into_somebodys_checkout_has_no_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    git = ["git", "-c", "user.name=a", "-c", "user.email=a@b", "-C", str(tmp_path)]
    for words in (["init", "-q"], ["commit", "-q", "--allow-empty", "-m", "theirs"]):
        subprocess.run([*git, *words], check=True)
    installed = tmp_path / ".venv" / Path(provenance.__file__).name
    installed.parent.mkdir()
    shutil.copyfile(provenance.__file__, installed)
    monkeypatch.setattr(provenance, "__file__", str(installed))
    found = provenance.provenance()
    assert (found["commit"], found["dirty"]) == ("", False)
    subprocess.run([*git, "add", ".venv"], check=True)
    assert len(provenance.provenance()["commit"]) == 40, "where the checkout is of the code"


def test_a_command_can_be_typed_again(monkeypatch: pytest.MonkeyPatch) -> None:
    words = ["tiger_tiny", "output_dir=/tmp/my dir", "evaluation.recall_at=[5,10]"]
    monkeypatch.setattr(sys, "argv", ["run.py", *words])
    assert shlex.split(provenance.provenance()["command"]) == ["python", "-m", "experiments.run", *words]
