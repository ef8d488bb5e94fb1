"""One file an experiment: a docstring with command and numbers, and `config()`. Those of classic models are all alike
and come from `_rivals`: a model and a data set, such as sasrec_beauty."""

import ast
import difflib
import importlib
from pathlib import Path
from typing import TYPE_CHECKING

from experiments.named._rivals import DATASETS, RIVALS, rival
from sid.errors import UserError

if TYPE_CHECKING:
    from experiments.config import RunConfig


def documented() -> dict[str, str]:
    """Experiments with a file of their own, and the first line of its docstring."""
    files = sorted(Path(__file__).parent.glob("[!_]*.py"))
    texts = {file.stem: ast.get_docstring(ast.parse(file.read_text())) or "" for file in files}
    return {name: text.partition("\n")[0] for name, text in texts.items()}


def experiments() -> list[str]:
    """All there are."""
    return list(dict.fromkeys([*documented(), *(f"{model}_{data}" for model in RIVALS for data in DATASETS)]))


def listing() -> str:
    found = documented() | {f"{model}_<data>": title for model, title in RIVALS.items()}
    width = max(map(len, found))
    lines = [f"  {name:{width}}  {line}" for name, line in found.items()]
    return "\n".join(["experiments:", *lines, f"<data> is {', '.join(DATASETS)}"])


def require_named(name: str) -> None:
    """Raises UserError where there is no such experiment."""
    known = experiments()
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise UserError(f"there is no experiment {name!r}{hint}\n{listing()}")


def named(name: str) -> "RunConfig":
    """The experiment's configuration: its own file's, where it has one. Raises UserError where there is none such."""
    require_named(name)
    model, _, data = name.rpartition("_")
    files = documented()
    if name not in files:
        if f"tiger_{data}" not in files:
            raise UserError(f"{name} has the data of tiger_{data}, and there is no experiments/named/tiger_{data}.py")
        return rival(model, data)
    config: RunConfig = importlib.import_module(f"experiments.named.{name}").config()
    return config
