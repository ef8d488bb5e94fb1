"""The pages in a real browser: nothing fails, every drawing is there, a phone shows them without scrolling aside."""

import html
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from experiments import compare, paper, run, sids

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")
BROWSER = next(filter(None, map(shutil.which, BROWSERS)), None)
PHONE, SCREEN = 390, 1280
SMALL = ["data.num_users=60", "data.num_items=100", "tokenizer.epochs=1", "train.max_epochs=2"]
WATCH = """<script>
const failures = [];
addEventListener("error", event => failures.push(event.message || String(event.target)), true);
addEventListener("load", () => parent.postMessage(JSON.stringify({
  failures,
  width: innerWidth,
  needed: document.documentElement.scrollWidth,
  drawings: [...document.querySelectorAll("svg")].map(drawing => {
    const box = drawing.getBoundingClientRect();
    return [box.width, box.height, drawing.querySelectorAll("path").length];
  }),
  fetched: performance.getEntriesByType("resource").map(entry => entry.name),
}), "*"));
</script>"""
FRAME = """<!doctype html><title>nothing</title>
<script>addEventListener("message", event => document.title = event.data);</script>
<iframe src="{page}" style="width: {width}px; height: 900px; border: 0"></iframe>"""

pytestmark = pytest.mark.skipif(BROWSER is None, reason=f"needs one of {', '.join(BROWSERS)}")


@pytest.fixture(scope="module")
def output(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A trained run, and everything that is written about it."""
    folder = tmp_path_factory.mktemp("pages")
    given = [*SMALL, f"output_dir={folder}"]
    assert run.main(["tiger_tiny", *given]) == 0
    (trained,) = folder.glob("runs/tiger_tiny/[!.]*")
    assert compare.main([str(trained), "--out", str(folder / "compare.html")]) == 0
    assert sids.main(["tiger_tiny", "against=tokenizer=lsh", *given]) == 0
    assert paper.main(["tiger", "data=tiny", "seeds=1", "only=Table 9", *given]) == 0
    return folder


def looked_at(page: Path, width: int, folder: Path) -> dict[str, Any]:
    """What the browser says of a page in a window of this width."""
    watched, frame = folder / f"watched-{width}.html", folder / f"frame-{width}.html"
    watched.write_text(page.read_text().replace("<head>", f"<head>{WATCH}", 1))
    frame.write_text(FRAME.format(page=watched.as_uri(), width=width))
    quiet = ["--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", "--window-size=1400,1000"]
    profile = f"--user-data-dir={folder / 'profile'}"
    command = [str(BROWSER), *quiet, profile, "--virtual-time-budget=5000", "--dump-dom", frame.as_uri()]
    answer = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    title = re.search(r"<title>(.*?)</title>", answer.stdout, re.DOTALL)
    assert title and title[1] != "nothing", f"{page} was not shown: {answer.stderr[-2000:]}"
    said = [line for line in answer.stderr.splitlines() if "CONSOLE" in line]
    return {**json.loads(html.unescape(title[1])), "console": said}


@pytest.mark.parametrize("width", [PHONE, SCREEN])
@pytest.mark.parametrize(
    ("pattern", "drawings"),
    [("runs/tiger_tiny/*/report.html", 15), ("compare.html", 2), ("sids/**/*.html", 5), ("papers/*/paper.html", 3)],
)
def test_a_page_is_drawn_without_an_error(pattern: str, drawings: int, width: int, output: Path, tmp_path: Path):
    (page,) = output.glob(pattern)
    seen = looked_at(page, width, tmp_path)
    assert seen["width"] == width
    assert seen["failures"] == seen["console"] == seen["fetched"] == []
    assert seen["needed"] <= width, "the page is wider than its window"
    assert len(seen["drawings"]) >= drawings
    assert all(wide > 100 and high > 50 and paths > 3 for wide, high, paths in seen["drawings"])
