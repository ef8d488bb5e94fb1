"""What every test shares."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest

# Toy sizes gain nothing from threads, and one thread makes sums repeatable. Read when torch, faiss or scikit-learn is
# imported, which is after this file, and by the processes that tests start.
os.environ.update(OMP_NUM_THREADS="1", MKL_NUM_THREADS="1")


pytest.register_assert_rewrite("tests.experiments.two_processes")

# A deadline an example fails on a busy machine for no fault of the code.
hypothesis.settings.register_profile("steady", deadline=None)
hypothesis.settings.load_profile("steady")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """A process takes a whole file, so that what its tests share is made once, and all of serving's files."""
    from xdist.scheduler import LoadFileScheduling

    class Together(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            folder = "tests/serving"
            return folder if nodeid.startswith(f"{folder}/") else super()._split_scope(nodeid)

    return Together(config, log) if config.getvalue("dist") == "loadfile" else None


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The folder of the real files; tests that need it are skipped where DATA_DIR is not set."""
    folder = os.environ.get("DATA_DIR")
    if not folder:
        pytest.skip("set DATA_DIR to run on the real files")
    return Path(folder)


@pytest.fixture(scope="module")
def blank_reports() -> Iterator[None]:
    """For a file that does not look at the drawings of reports (see `tests.blank`)."""
    from tests.blank import blank_reports as blank

    with blank():
        yield
