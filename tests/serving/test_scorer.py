"""Programs of models that are not trained: those that no other test exports. Legend: N items, L levels."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from models.classic_configs import (
    BERT4RecConfig,
    ClassicConfig,
    HSTUConfig,
    ItemKNNConfig,
    PopularityConfig,
    S3RecConfig,
)
from models.configs import CausalConfig, Content, GenerativeConfig, P5Config
from serving.scorer import save_scorer
from sid.table import SIDTable
from tests.models.tiny_rivals import LONGEST, built, known, name_of
from tests.serving.programs import check_program

CODES_NL = torch.cartesian_prod(torch.arange(5), torch.arange(4))
STACK: dict[str, Any] = {"width": 16, "num_layers": 1, "num_heads": 2, "head_width": 8, "ff_width": 32}
CLASSIC = [PopularityConfig(), ItemKNNConfig(), BERT4RecConfig(), S3RecConfig(), HSTUConfig()]
GENERATIVE = [
    P5Config(**STACK, num_user_tokens=7),
    CausalConfig("flat", **STACK, copies=True),
    CausalConfig("item", **STACK, num_user_tokens=7, copies=True),
]


def check(model: Any, table: SIDTable | None, num_items: int, folder: Path) -> None:
    card = SimpleNamespace(name="untrained", max_items=LONGEST, long_items=0)
    bundle: Any = SimpleNamespace(model=model.eval(), table=table, card=card)
    save_scorer(bundle, folder)
    check_program(folder, bundle, num_items, [(1, 1), (1, 2), (4, 3), (2, LONGEST)])


@pytest.mark.parametrize("config", CLASSIC, ids=name_of)
def test_programs_of_classic_models(config: ClassicConfig, tmp_path: Path) -> None:
    check(built(config), None, known().num_items, tmp_path)


@pytest.mark.parametrize("config", GENERATIVE, ids=name_of)
def test_programs_of_generative_models(config: GenerativeConfig, tmp_path: Path) -> None:
    torch.manual_seed(0)
    table = SIDTable.resolve(CODES_NL, (5, 4))
    model = config.build(table.codebook_sizes, LONGEST, Content(table.codes_NL))
    check(model, table, table.num_items, tmp_path)
