"""Exported programs against their modules. Legend: B rows, T items."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

from serving.scorer import SCORER, inputs, scorer


def check_program(folder: Path, bundle: Any, num_items: int, shapes: Sequence[tuple[int, int]]) -> None:
    """The program in the folder gives what the module gives, for so many rows and items of a history."""
    program = torch.export.load(folder / SCORER).module()
    module, least = scorer(bundle), 1 if bundle.table is None else 2
    for rows, length in shapes:
        history_BT = torch.randint(num_items, (rows, length))
        padded_BT, user_B = F.pad(history_BT, (0, max(0, least - length)), value=-1), torch.zeros(rows).long()
        with torch.no_grad():
            found = program(*inputs(bundle, padded_BT, user_B))
            assert torch.allclose(found, module(*inputs(bundle, history_BT, user_B)), atol=1e-4)
            if bundle.table is None:
                assert torch.allclose(found, bundle.model.scores(history_BT, user_B), atol=1e-4)
