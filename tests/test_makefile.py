"""What `make setup` would do, without doing it."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
STAMP = ".setup-cpu-text-wandb-serve-dev"


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """Set up with the default extras."""
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, tmp_path)
    (tmp_path / ".venv").mkdir()
    (tmp_path / ".venv" / STAMP).touch()
    return tmp_path


def planned(checkout: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    known = {
        name: value for name, value in os.environ.items() if not name.startswith(("PIP_", "UV_", "EXTRAS", "MAKE"))
    }
    command = ["make", "--dry-run", "setup", *arguments]
    return subprocess.run(command, cwd=checkout, env=known, capture_output=True, text=True)


def test_what_is_set_up_stays_until_something_else_is_asked_for(checkout: Path) -> None:
    assert "Nothing to be done" in planned(checkout).stdout
    other = planned(checkout, "TORCH_INDEX=https://torch.example/cpu").stdout
    assert "--reinstall-package torch" in other and "--index https://torch.example/cpu" in other
    (checkout / ".venv" / ".torch-index").write_text("https://torch.example/cpu\n")
    assert "--index https://torch.example/cpu" in planned(checkout, "EXTRAS=cpu").stdout, "it is remembered"


def test_extras_may_be_written_with_spaces_and_must_be_known(checkout: Path) -> None:
    assert '".[cpu,text,dev]"' in planned(checkout, "EXTRAS= cpu, text  dev").stdout
    for wrong, said in (("cpu,txet", "expected some of cpu gpu text"), ("cpu,gpu", "cpu or gpu, never both")):
        refused = planned(checkout, f"EXTRAS={wrong}")
        assert refused.returncode == 2 and said in refused.stderr
