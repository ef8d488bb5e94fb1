"""The step that scores given items, as a `torch.export` program: loads without this code, also from C++.

Legend: B rows, T items of a history, S tokens, L levels, N items.
"""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from serving.bundle import Bundle
from sid.errors import UserError

SCORER = "scorer.pt2"
ROWS, HISTORY = 3, 5


class GenerativeScorer(nn.Module):
    """(tokens_BS, codes_BL) -> (B, L), the log-probability of every code given the history and the codes before it."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, tokens_BS: Tensor, codes_BL: Tensor) -> Tensor:
        state = self.model.begin(tokens_BS)
        codes_B1 = parents_B1 = None
        logp = []
        for level, code_B in enumerate(codes_BL.unbind(1)):
            logp_B1V, state = self.model.next_logp(state, level, codes_B1, parents_B1)
            codes_B1, parents_B1 = code_B[:, None], torch.zeros_like(code_B)[:, None]
            logp.append(logp_B1V[:, 0].gather(1, codes_B1)[:, 0])
        return torch.stack(logp, dim=1)


class ClassicScorer(nn.Module):
    """(history_BT, user_B) -> (B, N) scores of all items."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, history_BT: Tensor, user_B: Tensor) -> Tensor:
        scores_BN: Tensor = self.model.scores(history_BT, user_B)
        return scores_BN


def scorer(bundle: Bundle) -> tuple[nn.Module, tuple[Tensor, ...]]:
    """The program's module, and inputs of the kind that it takes.

    Raises UserError for a model that reads a long history: what it prepares for every code is no fixed program.
    """
    if bundle.card.long_items:
        raise UserError(f"{bundle.card.name} retrieves from a long history for each code; it has no exported scorer")
    model: Any = bundle.model
    if bundle.table is None:
        return ClassicScorer(model), (torch.zeros(ROWS, HISTORY, dtype=torch.long), torch.zeros(ROWS).long() - 1)
    from datamodules.batch import token_sequence

    items_BT = torch.zeros(ROWS, HISTORY, dtype=torch.long)
    tokens_BS = token_sequence(items_BT, torch.zeros(ROWS).long() - 1, bundle.table.codes_NL, model.tokens)
    return GenerativeScorer(model), (tokens_BS, bundle.table.codes_NL[:ROWS])


def save_scorer(bundle: Bundle, folder: Path) -> None:
    """Writes scorer.pt2, for any number of rows and any length of history that the model takes, from two items on: a
    single item needs padding behind it."""
    module, inputs = scorer(bundle)
    rows = torch.export.Dim.AUTO
    shapes = tuple(dict.fromkeys(range(one.ndim), rows) for one in inputs)
    folder.mkdir(parents=True, exist_ok=True)
    with torch.no_grad():
        torch.export.save(
            torch.export.export(module.eval(), inputs, dynamic_shapes=shapes, strict=True), folder / SCORER
        )
