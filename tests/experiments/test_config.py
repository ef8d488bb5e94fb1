import dataclasses

import pytest

from datamodules.synthetic import SyntheticConfig
from experiments.config import RunConfig, hashed, override, to_yaml
from experiments.run import experiments
from sid.errors import UserError


def base() -> RunConfig:
    return RunConfig("tiny", data=SyntheticConfig())


def test_overrides_reach_every_depth_and_keep_their_types() -> None:
    config = override(base(), ["seed=7", "model.num_layers=3", "data.num_users=9", "tokenizer.codebook_sizes=[8,4]"])
    assert (config.seed, config.model.num_layers, config.data.num_users) == (7, 3, 9)  # type: ignore[attr-defined]
    assert config.tokenizer.codebook_sizes == [8, 4]
    assert isinstance(config.data, SyntheticConfig)


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("model.num_layer=3", "unknown key 'model.num_layer'; did you mean model.num_layers"),
        ("modle.num_layers=3", "did you mean model.num_layers"),
        ("model.num_layers=three", "model.num_layers=three: Value 'three' of type 'str' could not be converted"),
        ("tokenizer.codebook_sizes=256", "tokenizer.codebook_sizes=256"),
        ("seed", "'seed' is not an override; write key=value"),
        ("logger=printer", "logger=printer: expected one of csv, wandb"),
        ("model=3", "model=3"),
    ],
)
def test_a_wrong_override_is_named(assignment: str, message: str) -> None:
    with pytest.raises(UserError) as error:
        override(base(), [assignment])
    assert message in str(error.value)


def test_fields_that_change_no_result_do_not_enter_the_hash() -> None:
    here, there = base(), override(base(), ["output_dir=/elsewhere", "logger=wandb"])
    assert hashed(here) == hashed(there)
    assert hashed(here) != hashed(override(base(), ["seed=2"]))


@pytest.mark.parametrize("name", sorted(experiments()))
def test_every_named_experiment_has_a_config_of_its_name_and_says_how_to_run_it(name: str) -> None:
    import importlib

    module = importlib.import_module(f"experiments.named.{name}")
    config = module.config()
    assert config.name == name
    assert f"make exp NAME={name}" in (module.__doc__ or "")
    assert f"name: {name}" in to_yaml(config)
    assert {field.name for field in dataclasses.fields(config)} >= {"data", "model", "train"}
