"""Kills a run again and again, at random moments and while it writes files, and compares what it ends with.

    python -m benchmarks.kills [NAME] [--kills 50] [--seed 0] [--folder DIR] [key=value ...]

An unbroken run first. Then runs of the same command in fresh folders, each killed over and over (SIGKILL at a random
moment, SIGKILL when a file is being written aside, SIGTERM) until it comes to its end, until there were so many kills.
Every end must have the test metrics and the epochs of the unbroken run, digit for digit.
"""

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from experiments.page import read_columns

CLOCKS = ("seconds", "cpu_seconds")
MOMENTS = ("any moment", "while writing", "SIGTERM")


def command(name: str, overrides: Sequence[str], output: Path) -> list[str]:
    return [sys.executable, "-m", "experiments.run", name, f"output_dir={output}", *overrides]


def begin(asked: Sequence[str], log: Path) -> subprocess.Popen[bytes]:
    with log.open("wb") as out:
        return subprocess.Popen(asked, stdout=out, stderr=subprocess.STDOUT, env={**os.environ, "OMP_NUM_THREADS": "1"})


def ending(output: Path) -> dict[str, Any]:
    """What a run has come to: test metrics and all epochs but for their clocks."""
    (folder,) = {path.parent for path in output.glob("runs/*/*/test.json")}
    columns = read_columns(folder / "metrics.csv")
    return {
        "test": json.loads((folder / "test.json").read_text())["metrics"],
        "epochs": {name: values.tolist() for name, values in columns.items() if name not in CLOCKS},
    }


def writes(output: Path) -> bool:
    """Whether some file is being written aside."""
    return any(path.is_file() and path.suffix != ".lock" for path in output.glob("**/.*"))


def strike(running: subprocess.Popen[bytes], moment: str, seconds: float, output: Path) -> bool:
    """Kills the process at the moment; False where it has come to its end before."""
    deadline = time.monotonic() + seconds
    while running.poll() is None:
        if moment == "while writing" and writes(output):
            break
        if moment != "while writing" and time.monotonic() > deadline:
            break
        time.sleep(0.001 if moment == "while writing" else 0.02)
    if running.poll() is not None:
        return False
    running.send_signal(signal.SIGTERM if moment == "SIGTERM" else signal.SIGKILL)
    running.wait()
    return True


def stage(log: Path) -> str:
    """The one that was at work."""
    lines = [line.partition(":")[0] for line in log.read_text(errors="replace").splitlines() if ": working in" in line]
    return lines[-1] if lines else "start"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", nargs="?", default="causal_tiny")
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path)
    options, overrides = parser.parse_known_args()
    if "=" in options.name:
        options.name, overrides = parser.get_default("name"), [options.name, *overrides]
    top = Path(tempfile.mkdtemp(prefix="kills_", dir=options.folder))
    start = time.monotonic()
    whole = begin(command(options.name, overrides, top / "whole"), top / "whole.log")
    if whole.wait():
        raise SystemExit((top / "whole.log").read_text())
    seconds, expected = time.monotonic() - start, ending(top / "whole")
    print(f"unbroken: {seconds:.0f} s, Recall@10 {expected['test']['recall@10']:.4f}", flush=True)

    draw, struck, statuses, ends = random.Random(options.seed), Counter[tuple[str, str]](), Counter[int](), 0
    while struck.total() < options.kills:
        output, log = top / f"run{ends}", top / f"run{ends}.log"
        output.mkdir()
        while True:
            running = begin(command(options.name, overrides, output), log)
            moment = draw.choice(MOMENTS)
            alive = struck.total() < options.kills
            if not (alive and strike(running, moment, draw.uniform(0, seconds), output)):
                break
            struck[stage(log), moment] += 1
            statuses[running.returncode] += 1
        if running.wait():
            raise SystemExit(f"{log}: status {running.returncode}\n{log.read_text()[-2000:]}")
        if json.dumps(ending(output)) != json.dumps(expected):
            raise SystemExit(f"{output} does not end as {top / 'whole'}")
        ends += 1
        print(f"run {ends}: same end; {struck.total()} kills so far", flush=True)
    print(f"{struck.total()} kills, {ends} runs with identical test metrics and epochs; statuses {dict(statuses)}")
    for (at, moment), count in sorted(struck.items()):
        print(f"  {at:10}{moment:15}{count:4}")


if __name__ == "__main__":
    main()
