"""Reports whose drawings are not laid out and written, which takes longer than the rest of a tiny run."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from experiments import figures, report

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@contextmanager
def blank_reports() -> Iterator[None]:
    """Every drawing of a run's report is painted, and is an empty sheet of its size. Other pages are drawn as ever."""

    def sheet(size: tuple[float, float], paints: Sequence[figures.Paint]) -> "Figure":
        from matplotlib.figure import Figure

        for ax, paint in zip(Figure().subplots(1, len(paints), squeeze=False)[0], paints, strict=True):
            paint(ax)
        return Figure(figsize=size)

    def write(*parts: Any, **options: Any) -> Path:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(figures, "painted", sheet)
            return written(*parts, **options)

    written = report.write_report
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(report, "write_report", write)
        yield
