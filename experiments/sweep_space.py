"""A sweep's file, in wandb's own format: what is tried, how it is judged, when a trial is given up."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml  # type: ignore[import-untyped]

from sid.errors import UserError, require

if TYPE_CHECKING:
    import optuna

FOLDER = Path(__file__).parent / "sweeps"
METHODS = ("grid", "random", "bayes")
KEYS = ("name", "description", "program", "project", "entity", "method", "metric", "parameters", "early_terminate",
        "command", "run_cap")  # fmt: skip
SPANS = {"uniform": float, "log_uniform_values": float, "q_uniform": float, "int_uniform": int}
"""Distributions between min and max, and what they draw."""


@dataclass(frozen=True)
class Span:
    """Numbers between two ends."""

    low: float
    high: float
    whole: bool = False
    log: bool = False
    step: float | None = None


@dataclass(frozen=True)
class Sweep:
    """What a file asks for."""

    name: str
    method: str
    metric: str
    maximise: bool
    choices: dict[str, list[Any]]
    """Key -> values; one value is a constant."""
    spans: dict[str, Span]
    cap: int
    """Trials."""
    least: int = 0
    """Validations before a trial may be given up; 0: none is."""
    eta: int = 3
    """Of hyperband: one of so many trials goes on."""

    @property
    def free(self) -> list[str]:
        """The keys that vary."""
        return [key for key, values in self.choices.items() if len(values) > 1] + list(self.spans)

    def values(self, key: str) -> list[Any]:
        """Those of a key, or the ends of its span; none, if it has neither."""
        if key in self.spans:
            return [self.spans[key].low, self.spans[key].high]
        return self.choices.get(key, [])


def find_sweep(name: str) -> Path:
    """The file of a sweep by its name, or a path. Raises UserError where there is none."""
    known = {path.stem: path for path in sorted(FOLDER.glob("*.yaml"))}
    path = known.get(name, Path(name))
    if not path.is_file():
        raise UserError(f"there is no sweep {name!r}: expected a file, or one of {', '.join(known)}")
    return path


def read_sweep(path: Path) -> Sweep:
    """Raises UserError for what wandb would not understand, or this does not do."""
    try:
        tree = yaml.safe_load(path.read_text())
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UserError(f"{path} cannot be read: {' '.join(str(error).split())}") from error
    if not isinstance(tree, dict):
        raise UserError(f"{path}: expected a mapping with method, metric and parameters, as wandb has it")
    try:
        return _sweep(path, tree)
    except UserError as error:
        raise UserError(f"{path}: {error}") from error


def _sweep(path: Path, tree: Mapping[str, Any]) -> Sweep:
    for key in tree:
        require(key in KEYS, "key", key, f"one of {', '.join(KEYS)}")
    method, metric = str(tree.get("method")), _mapping(tree, "metric")
    require(method in METHODS, "method", method, " or ".join(METHODS))
    name, goal = str(metric.get("name")), metric.get("goal", "minimize")
    require(name.startswith("val/"), "metric.name", name, "a column of metrics.csv, val/...")
    require(goal in ("minimize", "maximize"), "metric.goal", goal, "minimize or maximize")
    found = {key: parameter(key, given) for key, given in _mapping(tree, "parameters").items()}
    require(bool(found), "parameters", "{}", "one or more")
    spans = {key: given for key, given in found.items() if isinstance(given, Span)}
    choices = {key: given for key, given in found.items() if not isinstance(given, Span)}
    cap = trials(tree.get("run_cap"), method, choices, spans)
    title = str(tree.get("name") or path.stem)
    return Sweep(title, method, name, goal == "maximize", choices, spans, cap, *hyperband(tree))


def trials(cap: Any, method: str, choices: Mapping[str, list[Any]], spans: Mapping[str, Span]) -> int:
    """How many there are to be. Raises UserError where that is not said."""
    combinations = math.prod(map(len, choices.values()))
    listed = method != "grid" or not spans
    require(listed, "method", method, f"random or bayes: {', '.join(spans)} is not a list of values")
    if cap is None and not spans:
        return combinations
    require(isinstance(cap, int) and cap >= 1, "run_cap", cap, "the number of trials, at least 1")
    return min(cap, combinations) if method == "grid" else int(cap)


def hyperband(tree: Mapping[str, Any]) -> tuple[int, int]:
    """`Sweep.least` and `Sweep.eta`. Raises UserError."""
    if "early_terminate" not in tree:
        return 0, 3
    stop = _mapping(tree, "early_terminate")
    require(stop.get("type") == "hyperband", "early_terminate.type", stop.get("type"), "hyperband")
    for key in stop:
        require(key in ("type", "min_iter", "eta"), "early_terminate key", key, "type, min_iter or eta")
    least, eta = stop.get("min_iter", 1), stop.get("eta", 3)
    require(isinstance(least, int) and least >= 1, "early_terminate.min_iter", least, "a whole number of at least 1")
    require(isinstance(eta, int) and eta >= 2, "early_terminate.eta", eta, "a whole number of at least 2")
    return least, eta


def _mapping(tree: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    found = tree.get(key)
    if not isinstance(found, dict):
        raise UserError(f"{key}={found!r}: expected a mapping")
    return found


def parameter(key: str, given: Any) -> list[Any] | Span:
    """The values of a parameter, or the numbers between its ends. Raises UserError."""
    where = f"parameters.{key}"
    if not isinstance(given, dict):
        raise UserError(f"{where}={given!r}: expected value, values, or min and max")
    if unknown := set(given) - {"value", "values", "min", "max", "q", "distribution"}:
        raise UserError(f"{where} has {sorted(unknown)[0]}, which is not understood here")
    if "values" in given:
        require(bool(isinstance(given["values"], list) and given["values"]), where, given["values"], "a list of values")
        return list(given["values"])
    if "value" in given:
        return [given["value"]]
    low, high = given.get("min"), given.get("max")
    for end in (low, high):
        number = isinstance(end, (int, float)) and not isinstance(end, bool) and math.isfinite(end)
        require(number, where, given, "value, values, or numbers min and max")
    assert isinstance(low, (int, float)) and isinstance(high, (int, float))
    whole = isinstance(low, int) and isinstance(high, int)
    kind = str(given.get("distribution", "int_uniform" if whole else "uniform"))
    require(kind in SPANS, f"{where}.distribution", kind, " or ".join(SPANS))
    require(low < high, where, given, "min below max")
    require(kind != "log_uniform_values" or low > 0, where, given, "min above 0")
    require(kind != "int_uniform" or whole, where, given, "whole numbers")
    q = given.get("q")
    require(q is None or kind == "q_uniform", where, given, "q with distribution: q_uniform alone")
    require(kind != "q_uniform" or (isinstance(q, (int, float)) and q > 0), where, given, "q above 0")
    if q is not None:  # multiples of q, as wandb draws them, but between the ends; whole numbers, where q is one
        step = int(q) if float(q).is_integer() else q
        low, high = (to(round(end / q, 9)) * step for to, end in ((math.ceil, low), (math.floor, high)))
        require(low < high, where, given, "two multiples of q from min to max")
        return Span(low, high, whole=isinstance(step, int), step=step)
    return Span(low, high, SPANS[kind] is int, kind == "log_uniform_values")


def drawn(trial: "optuna.Trial", sweep: Sweep) -> dict[str, Any]:
    """Key -> value of one trial."""
    values = {}
    for key, choice in sweep.choices.items():
        # A list is no choice of Optuna's; its place is.
        values[key] = choice[trial.suggest_categorical(key, list(range(len(choice))))] if len(choice) > 1 else choice[0]
    for key, span in sweep.spans.items():
        if span.whole:
            values[key] = trial.suggest_int(key, int(span.low), int(span.high), step=int(span.step or 1))
        else:
            values[key] = trial.suggest_float(key, span.low, span.high, step=span.step, log=span.log)
    return values
