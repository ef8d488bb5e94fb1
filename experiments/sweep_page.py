"""The trials of a sweep in words and drawings: on the terminal, as Markdown, JSON and one HTML page."""

import json
import math
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from experiments.figures import COLOURS, INK, OTHER, Panel, draw
from experiments.grid import Grid, markdown_grid, print_grid
from experiments.page import count, render
from experiments.provenance import provenance
from experiments.stages import write_all
from experiments.sweep_space import Sweep

if TYPE_CHECKING:
    import optuna
    from matplotlib.axes import Axes

STATES = {"COMPLETE": "done", "PRUNED": "given up", "FAIL": "failed", "RUNNING": "running", "WAITING": "waiting"}
WIDTH = 6.4
NOTE = (
    "{metric}: the best validation of the trial; of one given up (hyperband) the last it reached. Validation users "
    "alone: the test is not read. The best of many trials looks better than it is: run it again with other seeds, and "
    "test it once with make exp, with its values and train.devices=1."
)

Trial = dict[str, Any]


def trials(study: "optuna.Study") -> list[Trial]:
    """Every trial that was drawn, best first; killed ones that were drawn again are left out."""
    found = []
    for trial in study.get_trials(deepcopy=False):
        attributes, state = trial.user_attrs, STATES[trial.state.name]
        if "values" not in attributes or (state == "failed" and again(trial, study)):
            continue
        value = trial.value
        if value is None and trial.intermediate_values:
            value = trial.intermediate_values[max(trial.intermediate_values)]
        found.append({"trial": trial.number + 1, "state": state, "value": value, **attributes})
    sign = -1 if study.direction.name == "MAXIMIZE" else 1
    finished = {"done": 0, "given up": 1}
    return sorted(found, key=lambda one: (finished.get(one["state"], 2), sign * (one["value"] or 0.0), one["trial"]))


def again(trial: "optuna.trial.FrozenTrial", study: "optuna.Study") -> bool:
    """Whether a trial that was killed or has failed was tried again later."""
    later = study.get_trials(deepcopy=False)[trial.number + 1 :]
    return "problem" not in trial.user_attrs or any(other.params == trial.params for other in later)


def table(sweep: Sweep, found: Sequence[Trial]) -> Grid:
    rows = []
    for one in found:
        words: dict[str, str] = {
            "trial": str(one["trial"]),
            sweep.metric: "–" if one["value"] is None else f"{one['value']:.4f}",
        }
        words |= {key: shown(one["values"].get(key)) for key in sweep.free}
        words |= {"": one["state"], "epochs": count(one.get("epochs")), "CPU s": count(one.get("cpu_seconds"))}
        words["folder"] = str(one.get("folder", "–"))
        rows.append(words)
    return Grid.of(sweep.name, rows)


def shown(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def notes(sweep: Sweep, found: Sequence[Trial]) -> list[str]:
    ended = sum(one["state"] in ("done", "given up", "failed") for one in found)
    partial = [f"Partial: {ended} of {sweep.cap} trials have ended."] if ended < sweep.cap else []
    failed = [f"Trial {one['trial']} failed: {one['problem']}" for one in found if one["state"] == "failed"]
    return [*partial, *failed, NOTE.format(metric=sweep.metric)]


def show(sweep: Sweep, study: "optuna.Study") -> None:
    """Prints the table."""
    from rich.console import Console

    console, found = Console(), trials(study)
    if not found:
        return
    print_grid(console, table(sweep, found))
    for note in notes(sweep, found):
        console.print(note, style="dim", highlight=False, markup=False)


def write(sweep: Sweep, study: "optuna.Study", folder: Path, command: Sequence[str]) -> None:
    """sweep.json, .md and .html, once there is a trial. Raises UserError where they cannot be written."""
    found = trials(study)
    if not found:
        return
    grid, words = table(sweep, found), notes(sweep, found)
    page: dict[str, Any] = {"sweep": sweep, "table": grid, "notes": words, "drawings": panels(sweep, found)}
    page["environment"] = provenance(shlex.join(command))
    texts = {
        "sweep.json": json.dumps({"sweep": sweep.name, "metric": sweep.metric, "trials": found}, indent=1) + "\n",
        "sweep.md": "\n\n".join([f"# {sweep.name}", *markdown_grid(grid), *words]) + "\n",
        "sweep.html": render("sweep.html.j2", page),
    }
    write_all(folder, texts)


def panels(sweep: Sweep, found: Sequence[Trial]) -> list[Panel]:
    """Parallel coordinates of all trials, and a heat map of the first two keys that have values to choose from."""
    judged = [one for one in found if one["value"] is not None and one["state"] in ("done", "given up")]
    if not judged or not sweep.free:
        return []
    drawings = [parallel(sweep, judged)]
    chosen = [key for key in sweep.free if key in sweep.choices]
    if len(chosen) >= 2:
        drawings.append(heat(sweep, judged, *chosen[:2]))
    return drawings


def places(sweep: Sweep, key: str, values: Sequence[Any]) -> tuple[list[float], list[tuple[float, str]]]:
    """Where values lie between 0 and 1, and the ticks there."""
    if key in sweep.choices:
        choice = sweep.choices[key]
        step = 1 / max(1, len(choice) - 1)
        return [choice.index(value) * step for value in values], [(n * step, shown(v)) for n, v in enumerate(choice)]
    span = sweep.spans[key]
    scale = math.log if span.log else float
    low, high = scale(span.low), scale(span.high)
    return [(scale(value) - low) / (high - low) for value in values], [(0.0, shown(span.low)), (1.0, shown(span.high))]


def parallel(sweep: Sweep, judged: Sequence[Trial]) -> Panel:
    """A line a trial over the keys to its value; the best third in colour."""
    values = [one["value"] for one in judged]
    low, high = min(values), max(values)
    columns = [places(sweep, key, [one["values"][key] for one in judged]) for key in sweep.free]
    ends = [(value - low) / ((high - low) or 1.0) for value in values]
    columns.append((ends, [(0.0, f"{low:.4f}"), (1.0, f"{high:.4f}")]))
    order = np.argsort(values)[:: 1 if sweep.maximise else -1]
    best = set(order[-max(1, len(values) // 3) :].tolist())

    def paint(ax: "Axes") -> None:
        for trial in order.tolist():
            colour, width = (COLOURS[0], 1.6) if trial in best else (OTHER, 0.7)
            ax.plot(range(len(columns)), [place[trial] for place, _ in columns], color=colour, linewidth=width)
        for place, (_, ticks) in enumerate(columns):
            ax.axvline(place, color=INK, linewidth=0.8)
            for height, words in ticks:
                ax.annotate(words, (place, height), xytext=(3, 2), textcoords="offset points", fontsize=7, color=INK)
        ax.set_xticks(range(len(columns)), [*(key.rpartition(".")[2] for key in sweep.free), sweep.metric])
        ax.set_yticks([])
        ax.set_xlim(-0.1, len(columns) - 0.6)
        ax.spines[["left", "bottom"]].set_visible(False)

    title = "Every trial over what it was given"
    svg = draw("parallel", title, (WIDTH, 3.4), paint)
    return Panel(title, svg, f"A line a trial; the best third by {sweep.metric} in colour.", wide=True)


def heat(sweep: Sweep, judged: Sequence[Trial], across: str, up: str) -> Panel:
    """The best value of every pair of values."""
    columns, rows = sweep.choices[across], sweep.choices[up]
    best = np.full((len(rows), len(columns)), np.nan)
    pick = np.fmax if sweep.maximise else np.fmin
    for one in judged:
        cell = rows.index(one["values"][up]), columns.index(one["values"][across])
        best[cell] = pick(best[cell], one["value"])

    def paint(ax: "Axes") -> None:
        ax.imshow(best, cmap="Blues" if sweep.maximise else "Blues_r", aspect="auto", origin="lower")
        middle = (np.nanmin(best) + np.nanmax(best)) / 2
        for (row, column), value in np.ndenumerate(best):
            dark = np.isfinite(value) and (value > middle) == sweep.maximise
            words = f"{value:.4f}" if np.isfinite(value) else "–"
            ax.text(column, row, words, ha="center", va="center", fontsize=8, color="white" if dark else "#1d1f23")
        ax.set_xticks(range(len(columns)), list(map(shown, columns)))
        ax.set_yticks(range(len(rows)), list(map(shown, rows)))
        ax.set_xlabel(across)
        ax.set_ylabel(up)

    title = f"Best {sweep.metric} by {across} and {up}"
    svg = draw("heat", title, (WIDTH * 0.7, 1.2 + 0.45 * len(rows)), paint)
    return Panel(title, svg, "Over all trials with these two values, whatever else they were given; –: none.")
