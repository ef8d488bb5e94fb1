"""What the HTML pages share: the files they read, the look, numbers in words."""

import csv
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from sid.errors import UserError


def render(template: str, page: Mapping[str, Any]) -> str:
    """A template of this folder as HTML; it builds on `page.html.j2`."""
    import jinja2

    templates = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    templates.filters |= {"number": number, "share": share, "count": count, "duration": duration}
    return templates.get_template(template).render(page)


def read_text(path: Path) -> str:
    """Raises UserError naming the file where it cannot be read."""
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read ({error}). Run the stage again.") from error


def read_json(path: Path) -> dict[str, Any]:
    """Raises UserError naming the file where it is missing or holds no JSON object."""
    try:
        content = json.loads(read_text(path))
    except ValueError as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{path} is no valid JSON ({error}). Run the stage again.") from error
    if not isinstance(content, dict):
        raise UserError(f"{path} holds no JSON object. Run the stage again.")
    return content


def read_columns(path: Path) -> dict[str, np.ndarray]:
    """Column -> values, NaN for an empty cell. Raises UserError where there is no row or a cell is no number."""
    rows = list(csv.DictReader(read_text(path).splitlines()))
    if not rows:
        raise UserError(f"{path} holds no row: nothing was logged. Train for at least one epoch.")
    try:
        return {name: np.array([float(row[name] or "nan") for row in rows]) for name in rows[0] if name}
    except (ValueError, TypeError) as error:
        raise UserError(f"{path} has a cell that is no number ({error}). Train again.") from error


def number(value: float | None) -> str:
    """Four digits after the point, or a dash."""
    return "–" if value is None or not math.isfinite(value) else f"{value:.4f}"


def share(value: float | None) -> str:
    """A percentage with three significant digits or so, or a dash."""
    if value is None or not math.isfinite(value):
        return "–"
    return f"{value:.{2 if abs(value) < 0.0995 else 1}%}"


def duration(seconds: float) -> str:
    """Seconds, minutes or hours, whichever gives a number that one can read."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def count(value: float | None) -> str:
    """A whole number with commas, or a dash."""
    return "–" if value is None else f"{value:,.0f}"
