"""Programs of models that are not trained: those that no other test exports. Legend: B rows, T items, N all items, L
levels."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from models.classic_configs import (
    BERT4RecConfig,
    ClassicConfig,
    HSTUConfig,
    ItemKNNConfig,
    PopularityConfig,
    S3RecConfig,
)
from models.configs import CausalConfig, Content, GenerativeConfig, P5Config
from serving.scorer import SCORER, inputs, save_scorer, scorer
from sid.table import SIDTable
from tests.models.tiny_rivals import LONGEST, built, known, name_of

CODES_NL = torch.cartesian_prod(torch.arange(5), torch.arange(4))
STACK: dict[str, Any] = {"width": 16, "num_layers": 1, "num_heads": 2, "head_width": 8, "ff_width": 32}
CLASSIC = [PopularityConfig(), ItemKNNConfig(), BERT4RecConfig(), S3RecConfig(), HSTUConfig()]
GENERATIVE = [P5Config(**STACK, num_user_tokens=7), CausalConfig("flat", **STACK, copies=True)]


def bundle_of(model: Any, table: SIDTable | None) -> Any:
    card = SimpleNamespace(name="untrained", max_items=LONGEST, long_items=0)
    return SimpleNamespace(model=model.eval(), table=table, card=card)


def check(bundle: Any, num_items: int, least: int, folder: Path) -> None:
    """The program gives what the module gives, for any number of rows and items."""
    save_scorer(bundle, folder)
    program, module = torch.export.load(folder / SCORER).module(), scorer(bundle)
    for rows, length in ((1, least), (2, LONGEST), (4, 3)):
        history_BT, user_B = torch.randint(num_items, (rows, length)), torch.arange(rows)
        padded_BT = F.pad(history_BT, (0, max(0, 2 - length)), value=-1)
        with torch.no_grad():
            expected = module(*inputs(bundle, history_BT, user_B))
            assert torch.allclose(program(*inputs(bundle, padded_BT, user_B)), expected, atol=1e-4)


@pytest.mark.parametrize("config", CLASSIC, ids=name_of)
def test_programs_of_classic_models(config: ClassicConfig, tmp_path: Path) -> None:
    check(bundle_of(built(config), None), known().num_items, 1, tmp_path)


@pytest.mark.parametrize("config", GENERATIVE, ids=name_of)
def test_programs_of_generative_models(config: GenerativeConfig, tmp_path: Path) -> None:
    torch.manual_seed(0)
    table = SIDTable.resolve(CODES_NL, (5, 4))
    model = config.build(table.codebook_sizes, LONGEST, Content(table.codes_NL))
    check(bundle_of(model, table), table.num_items, 2, tmp_path)
