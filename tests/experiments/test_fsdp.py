"""Two processes with a share of the optimiser's state each. Legend: B users, K ranks."""

from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor

from experiments.named import named
from experiments.overrides import override
from experiments.pipeline import Pipeline
from sid.errors import UserError
from tests.experiments.two_processes import check_curve_and_sigterm


def test_the_loss_curve_is_that_of_one_process_and_sigterm_changes_nothing(tmp_path: Path) -> None:
    check_curve_and_sigterm("fsdp", tmp_path)


@pytest.mark.parametrize("name", ["tiger_tiny", "glass_tiny", "sidlight_tiny", "sasrec_tiny"])
def test_weights_are_shared_out_once_and_whole_where_the_model_is_called(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = [] if name.startswith("sasrec") else ["tokenizer.epochs=1"]
    config = override(named(name), ["data.num_users=60", *own, f"output_dir={tmp_path}"])
    pipeline = Pipeline(config, say=lambda line: None)
    pipeline.run(pipeline.stages[-3], lambda *figures: None)
    module, data = pipeline.retriever()
    data.setup("fit")
    batch, learnt = data.some_tests(8)[0], next(iter(data.train_dataloader()))
    items = torch.arange(pipeline.catalog.num_items) if pipeline.codes is None else pipeline.codes.trie

    def called() -> tuple[Tensor, Tensor]:
        return module.batch_loss(learnt)[0].detach(), module.recommend(batch, items, 10).scores_BK.detach()

    module.eval()
    whole = called()
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        mesh = init_device_mesh("cpu", (1, 1), mesh_dim_names=("machine", "process"))
        monkeypatch.setattr(type(module), "device_mesh", mesh)
        module.configure_model()
        module.configure_model()
        assert isinstance(module.model, FSDPModule)
        assert all(isinstance(weight, DTensor) for weight in module.parameters())
        for ours, expected in zip(called(), whole, strict=True):
            assert torch.equal(ours, expected)
    finally:
        torch.distributed.destroy_process_group()


def test_a_mean_of_weights_that_nobody_has_whole_is_refused() -> None:
    with pytest.raises(UserError, match="train.ema=0.99: expected 0 with train.strategy=fsdp"):
        override(named("tiger_tiny"), ["train.strategy=fsdp", "train.ema=0.99"])


def test_an_optimizer_that_wants_whole_weights_is_refused() -> None:
    with pytest.raises(UserError, match="optimizer.kind=adafactor: expected adamw, and .* with train.strategy=fsdp"):
        override(named("tiger_tiny"), ["train.strategy=fsdp", "optimizer.kind=adafactor"])
