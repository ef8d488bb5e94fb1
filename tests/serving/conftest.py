"""Trained once for all tests of serving."""

from pathlib import Path

import pytest

from experiments import export
from experiments.run import run
from tests.blank import blank_reports
from tests.serving.trained import MODELS, SHORT, SMALL


@pytest.fixture(scope="session")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One trained folder a model."""
    output = tmp_path_factory.mktemp("serving")
    found = {}
    for name in MODELS:
        learns = [] if name == "itemknn_tiny" else SHORT
        tokens = ["model.num_user_tokens=7"] if name == "tiger_tiny" else []
        long = ["data.num_users=40"] if name == "glass_tiny" else []
        with blank_reports():
            done = run([name, *SMALL, *learns, *tokens, *long, f"output_dir={output}"])
        found[name] = done.train.folder
    return found


@pytest.fixture(scope="session")
def bundles(runs: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    output = tmp_path_factory.mktemp("bundles")
    for name, folder in runs.items():
        assert export.main([str(folder), str(output / name), f"scorer={'false' if 'glass' in name else 'true'}"]) == 0
    return {name: output / name for name in runs}
