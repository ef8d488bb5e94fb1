"""What every test shares."""

import os
from pathlib import Path

import hypothesis
import pytest

# Toy sizes gain nothing from threads, and one thread makes sums repeatable. Read when torch, faiss or scikit-learn is
# imported, which is after this file, and by the processes that tests start.
os.environ.update(OMP_NUM_THREADS="1", MKL_NUM_THREADS="1")


pytest.register_assert_rewrite("tests.experiments.two_processes")

# A deadline an example fails on a busy machine for no fault of the code.
hypothesis.settings.register_profile("steady", deadline=None)
hypothesis.settings.load_profile("steady")


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The folder of the real files; tests that need it are skipped where DATA_DIR is not set."""
    folder = os.environ.get("DATA_DIR")
    if not folder:
        pytest.skip("set DATA_DIR to run on the real files")
    return Path(folder)
