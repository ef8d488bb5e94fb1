"""The step that scores given items, as a `torch.export` program: loads without this code, also from C++.

Legend: B rows, T items of a history, S tokens, L levels, N items.
"""

import warnings
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from serving.bundle import Bundle
from sid.errors import UserError, first_line

SCORER = "scorer.pt2"
EXAMPLE = (3, 5)
"""Rows, items of a history: what the program is made with."""


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
    """(history_BT, user_B) -> (B, N) scores of all items.

    The model always sees `max_items` places: some look at so many, and a recurrent network is exported for one length.
    """

    def __init__(self, model: Any, max_items: int) -> None:
        super().__init__()
        self.model, self.max_items = model, max_items

    def forward(self, history_BT: Tensor, user_B: Tensor) -> Tensor:
        missing = self.max_items - history_BT.shape[1]
        torch._check(missing >= 0)
        scores_BN: Tensor = self.model.scores(F.pad(history_BT, (0, missing), value=-1), user_B)
        return scores_BN


def scorer(bundle: Bundle) -> nn.Module:
    """The program's module.

    Raises UserError for a model that reads a long history: what it prepares for every code is no fixed program.
    """
    if bundle.card.long_items:
        raise UserError(f"{bundle.card.name} retrieves from a long history for each code; it has no exported scorer")
    if bundle.table is None:
        return ClassicScorer(bundle.model, bundle.card.max_items)
    return GenerativeScorer(bundle.model)


def inputs(bundle: Bundle, history_BT: Tensor, user_B: Tensor) -> tuple[Tensor, ...]:
    """What the program takes: of a generative model the tokens of the histories, and codes of as many items."""
    if bundle.table is None:
        return history_BT, user_B
    from datamodules.batch import token_sequence

    model: Any = bundle.model
    tokens_BS = token_sequence(history_BT, user_B, bundle.table.codes_NL, model.tokens)
    return tokens_BS, bundle.table.codes_NL[torch.arange(len(history_BT)) % bundle.table.num_items]


def save_scorer(bundle: Bundle, folder: Path) -> None:
    """Writes scorer.pt2, for any number of rows and any length of history that the model takes, of a generative model
    from two items on: a single item needs padding behind it.

    Made without Dynamo, which takes twice as long; then `len(x)` of a tensor is a number, `x.shape[0]` any.

    Raises UserError where the program does not take them all.
    """

    def asked(rows: int, items: int) -> tuple[Tensor, ...]:
        return inputs(bundle, torch.zeros(rows, items, dtype=torch.long), torch.zeros(rows).long() - 1)

    shapes = tuple(dict.fromkeys(range(one.ndim), torch.export.Dim.AUTO) for one in asked(*EXAMPLE))
    folder.mkdir(parents=True, exist_ok=True)
    with torch.no_grad(), warnings.catch_warnings():
        # GRU4Rec keeps its weights together for cuDNN, which export undoes: they are in the program by their own names.
        warnings.filterwarnings("ignore", message="The tensor attributes .*_flat_weights")
        program = torch.export.export(scorer(bundle).eval(), asked(*EXAMPLE), dynamic_shapes=shapes, strict=False)
        for shape in ((1, 2), (2, bundle.card.max_items)):
            try:
                program.module()(*asked(*shape))
            except (AssertionError, RuntimeError) as error:
                raise UserError(
                    f"{bundle.card.name} has no exported scorer: its program takes no {shape[0]} x {shape[1]} items "
                    f"({first_line(error)})"
                ) from error
    torch.export.save(program, folder / SCORER)
