import dataclasses
import importlib
import sys
import types

import pytest

from datamodules.catalog import CatalogConfig
from datamodules.configs import SequenceConfig
from datamodules.embed import EmbedConfig
from datamodules.split import SplitConfig
from datamodules.synthetic import SyntheticConfig
from datamodules.table import TableConfig
from experiments.config import EvaluationConfig, RunConfig, TrainConfig, check, hashed, to_yaml, unless_set
from experiments.named import documented, experiments, named
from experiments.named._rivals import DATASETS
from experiments.overrides import override
from lightning_modules.configs import OptimizerConfig
from models.configs import CausalConfig, EncoderDecoderConfig, ModelConfig
from sid.configs import TokenizerConfig
from sid.errors import UserError


def base() -> RunConfig:
    return RunConfig("tiny", data=SyntheticConfig())


def causal() -> RunConfig:
    return dataclasses.replace(base(), model=CausalConfig())


def test_overrides_reach_every_depth_and_keep_their_types() -> None:
    config = override(base(), ["seed=7", "model.num_layers=3", "data.num_users=9", "tokenizer.codebook_sizes=[8,4]"])
    assert (config.seed, config.model.num_layers, config.data.num_users) == (7, 3, 9)  # type: ignore[attr-defined]
    assert config.tokenizer.codebook_sizes == [8, 4]
    assert isinstance(config.data, SyntheticConfig)


def test_text_stays_as_it_was_written() -> None:
    """YAML makes 20261130 of the first, 1000.0 of the second, False of the third."""
    for text in ("2026_11_30", "1e3", "no", "007", "/tmp/x #1", "a: b", "[x"):
        assert override(base(), [f"output_dir={text}"]).output_dir == text
        assert override(base(), [f"output_dir='{text}'"]).output_dir == text
    assert override(base(), ["train.devices= 2"]).train.devices == "2"
    assert override(base(), [r'output_dir="a\tb"']).output_dir == "a\tb", "quoted, it is YAML"
    assert override(base(), ["output_dir='it''s'"]).output_dir == "it's"
    with pytest.raises(UserError, match="the value cannot be read .* write it as YAML"):
        override(base(), ["output_dir='it's'"])
    assert override(base(), ["output_dir=\"'x'\""]).output_dir == "'x'"
    for nothing in ("", "null"):
        with pytest.raises(UserError, match=f"output_dir={nothing}: "):
            override(base(), [f"output_dir={nothing}"])


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
        ("tokenizer.codebook_sizes=[16", "tokenizer.codebook_sizes=[16: the value cannot be read"),
        ("train.devices=0", "train.devices=0: expected auto or a number of at least 1"),
        ("train.devices=-1", "train.devices=-1: expected auto"),
        ("train.devices=two", "train.devices=two: expected auto"),
        ("train.validate_every=201", "train.validate_every=201: expected 1 to train.max_epochs=200"),
        ("train.validate_every=3", "train.validate_every=3: expected a divisor of train.max_epochs=200"),
        ("train.max_epochs=0", "train.max_epochs=0: expected at least 1"),
        ("train.precision=bf16", "train.precision=bf16: expected 32-true or bf16-mixed"),
        ("train.accelerator=tpu", "train.accelerator=tpu: expected auto, cpu"),
        ("train.strategy=dpp", "train.strategy=dpp: expected auto, ddp, fsdp"),
        ("embed.path=v.npy", "embed.path=v.npy: expected nothing beside embed.encoder=minilm"),
        ("evaluation.num_beams=0", "evaluation.num_beams=0: expected at least 1"),
        ("evaluation.num_beams=20", "evaluation.entropy_at=[10, 20, 50]: expected one or more numbers from 1 to eval"),
        ("evaluation.free_beams=10", "evaluation.invalid_at=[10, 20]: expected one or more numbers from 1 to eval"),
        ("evaluation.recall_at=[]", "evaluation.recall_at=[]: expected one or more numbers"),
        ("evaluation.recall_at=[0,10]", "evaluation.recall_at=[0, 10]: expected one or more numbers"),
        ("evaluation.ndcg_at=[5]", "evaluation.ndcg_at=[5]: expected 10 among them"),
        ("evaluation.recall_at=[5]", "evaluation.recall_at=[5]: expected 10 among them"),
        ("evaluation.coverage_at=51", "evaluation.coverage_at=51: expected 1 to evaluation.num_beams=50"),
        ("tokenizer.codebook_sizes=[]", "tokenizer.codebook_sizes=[]: expected one or more sizes"),
        ("tokenizer.codebook_sizes=[8,0]", "tokenizer.codebook_sizes=[8, 0]: expected one or more sizes"),
        ("tokenizer.hidden=[0]", "tokenizer.hidden=[0]: expected widths of at least 1"),
        ("tokenizer.learning_rate=0", "tokenizer.learning_rate=0.0: expected a number above 0"),
        ("optimizer.learning_rate=nan", "optimizer.learning_rate=nan: expected a number above 0"),
        ("optimizer.learning_rate=.inf", "optimizer.learning_rate=inf: expected a number above 0"),
        ("optimizer.schedule=linear", "optimizer.schedule=linear: expected inverse_sqrt, constant, cosine"),
        ("optimizer.kind=sgd", "optimizer.kind=sgd: expected adamw or adafactor"),
        ("model.dropout=1", "model.dropout=1.0: expected at least 0 and below 1"),
        ("seed=-1", "seed=-1: expected 0 to 2147483647"),
        ("name=../up", "name='../up': expected"),
        ("split.kind=random", "split.kind=random: expected leave_one_out or time"),
        ("sequences.batches=sorted", "sequences.batches=sorted: expected like or random"),
        ("sequences.item_dropout=1", "sequences.item_dropout=1.0: expected at least 0 and below 1"),
        ("sequences.stride=21", "sequences.stride=21: expected at most 20, max_items"),
        ("train.ema=1", "train.ema=1.0: expected at least 0 and below 1"),
        ("train.ema=-0.1", "train.ema=-0.1: expected at least 0 and below 1"),
        ("evaluation.constrained=often", "evaluation.constrained=often: Value 'often' is not a valid bool"),
        ("model.form=flat", "unknown key 'model.form'"),
    ],
)
def test_a_wrong_override_is_named(assignment: str, message: str) -> None:
    with pytest.raises(UserError) as error:
        override(base(), [assignment])
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("model.form=tree", "model.form=tree: expected item or flat"),
        *(
            (f"model.{name}={share}", f"model.{name}={share}: expected at least 0 and below 1")
            for name in ("dropout", "depth_dropout", "item_dropout", "label_smoothing")
            for share in (1.0, -0.1)
        ),
        *(
            (f"model.{name}=0", f"model.{name}=0: expected at least 1")
            for name in ("width", "num_layers", "depth_layers", "num_heads", "head_width", "ff_width")
        ),
        ("model.num_user_tokens=-1", "model.num_user_tokens=-1: expected at least 0"),
        ("model.tied=often", "model.tied=often: Value 'often' is not a valid bool"),
        ("model.frm=flat", "unknown key 'model.frm'; did you mean model.form"),
    ],
)
def test_a_wrong_override_of_a_causal_model_is_named(assignment: str, message: str) -> None:
    with pytest.raises(UserError) as error:
        override(causal(), [assignment])
    assert message in str(error.value)


def test_a_causal_model_takes_every_value_at_its_edge() -> None:
    assignments = ["model.form=flat", "model.dropout=0", "model.item_dropout=0.99", "model.tied=true"]
    config = override(causal(), [*assignments, "sequences.max_items=7", "sequences.stride=7", "train.ema=0.999"])
    assert isinstance(config.model, CausalConfig)
    assert (config.model.form, config.model.item_dropout, config.model.tied) == ("flat", 0.99, True)
    assert (config.sequences.stride, config.train.ema) == (7, 0.999)


AT_LEAST = {
    1: [
        *(f"model.{name}" for name in ("width", "num_layers", "num_heads", "head_width", "ff_width")),
        *(f"tokenizer.{name}" for name in ("latent", "batch_size", "epochs", "look_every")),
        *(f"sequences.{name}" for name in ("max_items", "batch_size", "eval_batch_size")),
        *("train.num_nodes", "evaluation.num_beams", "evaluation.free_beams"),
    ],
    0: [
        *("model.num_user_tokens", "optimizer.warmup_steps", "optimizer.weight_decay", "train.patience", "train.clip"),
        *("sequences.steps_per_epoch", "sequences.eval_users", "sequences.stride", "train.ema"),
    ],
}


@pytest.mark.parametrize(("least", "key"), [(least, key) for least, keys in AT_LEAST.items() for key in keys])
def test_a_number_has_a_smallest_value(least: int, key: str) -> None:
    config = causal() if key == "sequences.stride" else base()
    with pytest.raises(UserError) as error:
        override(config, [f"{key}={least - 1}"])
    assert f"{key}={least - 1}" in str(error.value)
    assert f"at least {least}" in str(error.value)
    if not key.startswith("evaluation"):
        override(config, [f"{key}={least}"])


@pytest.mark.parametrize(
    ("name", "assignment", "why"),
    [
        ("tiger_tiny", "split.test_share=0.2", "split.kind is leave_one_out"),
        ("tiger_tiny", "split.validation_share=0.2", "split.kind is leave_one_out"),
        ("glass_tiny", "split.test_share=0.2", "split.kind is given"),
        ("tiger_tiny", "sequences.stride=5", "tiger_tiny learns from prefixes"),
        ("tiger_tiny", "sequences.long_items=50", "tiger_tiny reads the last max_items alone"),
        ("tiger_beauty", "embed.dim=64", "embed.encoder is minilm"),
        ("sasrec_tiny", "evaluation.free_beams=30", "sasrec_tiny scores whole items"),
        ("itemknn_tiny", "train.max_epochs=3", "itemknn_tiny learns nothing"),
        ("itemknn_tiny", "optimizer.learning_rate=0.1", "itemknn_tiny learns nothing"),
        ("itemknn_tiny", "sequences.stride=5", "itemknn_tiny learns nothing"),
    ],
)
def test_an_override_of_what_nothing_reads_is_refused(name: str, assignment: str, why: str) -> None:
    with pytest.raises(UserError, match=f"{assignment}: it changes nothing, as {why}$"):
        override(named(name), [assignment])


def test_what_an_override_makes_of_use_is_taken() -> None:
    assert override(named("tiger_tiny"), ["split.test_share=0.2", "split.kind=time"]).split.test_share == 0.2
    assert override(named("tiger_tiny"), ["embed.dim=64", "embed.encoder=tfidf"]).embed.dim == 64
    assert override(named("glass_tiny"), ["sequences.long_items=50"]).sequences.long_items == 50


def test_text_may_be_emptied_where_it_is_empty_as_a_rule() -> None:
    table = dataclasses.replace(base(), data=TableConfig("events.csv", "items.csv", category_column="path"))
    assert override(table, ["data.category_column="]).data.category_column == ""  # type: ignore[attr-defined]
    with pytest.raises(UserError, match="output_dir=: "):
        override(base(), ["output_dir="])
    with pytest.raises(UserError, match="it has settings"):
        override(named("tiger_beauty"), ["published.TIGER, Table 1="])
    with pytest.raises(UserError, match="not Optional"):
        override(named("tiger_beauty"), ["published.TIGER, Table 1.recall@10="])


def test_a_file_of_ones_own_comes_before_the_rival_of_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    own = types.ModuleType("experiments.named.sasrec_tiny")
    own.config = lambda: dataclasses.replace(base(), seed=7)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, own.__name__, own)
    assert named("sasrec_tiny").seed == 1
    files = documented()
    monkeypatch.setattr("experiments.named.documented", lambda: files | {"sasrec_tiny": "mine"})
    assert named("sasrec_tiny").seed == 7
    assert experiments().count("sasrec_tiny") == 1


def test_a_data_set_without_its_tiger_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(DATASETS, "books", "Amazon Books")
    with pytest.raises(UserError, match="there is no experiments/named/tiger_books.py"):
        named("sasrec_books")


def test_devices_may_be_a_number_and_a_config_is_checked_without_overrides_too() -> None:
    assert override(base(), ["train.devices=2"]).train.devices == "2"
    with pytest.raises(UserError, match="seed=-3"):
        override(dataclasses.replace(base(), seed=-3), [])


def test_fields_that_change_no_result_do_not_enter_the_hash() -> None:
    here, there = base(), override(base(), ["output_dir=/elsewhere", "logger=wandb"])
    assert hashed(here) == hashed(there)
    assert hashed(here) != hashed(override(base(), ["seed=2"]))


@pytest.mark.parametrize("name", sorted(documented()))
def test_every_file_says_how_to_run_its_experiment(name: str) -> None:
    module = importlib.import_module(f"experiments.named.{name}")
    assert f"make exp NAME={name}" in (module.__doc__ or "")


@pytest.mark.parametrize("name", sorted(experiments()))
def test_every_named_experiment_has_a_config_of_its_name(name: str) -> None:
    config = named(name)
    check(config)
    assert config.name == name
    assert f"name: {name}" in to_yaml(config)
    assert {field.name for field in dataclasses.fields(config)} >= {"data", "model", "train"}


def test_every_option_that_older_configurations_lack_is_known() -> None:
    """Those of `unless_set` are found part by part; a new kind of a part must not be forgotten."""
    kinds: list[type] = [CatalogConfig, EmbedConfig, TokenizerConfig, ModelConfig, OptimizerConfig, SequenceConfig]
    for kind in kinds:
        kinds += [other for other in kind.__subclasses__() if other not in kinds]
    kinds += [SplitConfig, TrainConfig, EvaluationConfig]
    options = {f.name for kind in kinds for f in dataclasses.fields(kind) if f.metadata.get("hashed") == "if set"}
    assert {"kind", "revive", "whiten", "repeats", "batches"} <= options
    assert options == {key.partition(".")[2] for key in unless_set()}


def test_windows_are_random_already() -> None:
    with pytest.raises(UserError, match="sequences.batches=random: expected like: .* windows are random"):
        override(named("causal_tiny"), ["sequences.batches=random"])
    with pytest.raises(UserError, match="sequences.item_dropout=0.1: expected 0: .* have model.item_dropout"):
        override(named("causal_tiny"), ["sequences.item_dropout=0.1"])
    assert override(named("tiger_tiny"), ["sequences.batches=random"]).sequences.batches == "random"


def test_rows_of_papers_are_left_out_beside_other_data_than_theirs():
    rows = named("tiger_beauty").published
    assert (
        override(named("tiger_beauty"), ["seed=2", "data.data_dir=/elsewhere", "train.max_epochs=3"]).published == rows
    )
    others = ["data.name=Video_Games", "data.name=Sports_and_Outdoors", "data.min_count=10"]
    others += ["split.kind=time", "split.cold_share=0.05", "evaluation.oracle_first_code=true"]
    for assignment in others:
        assert override(named("tiger_beauty"), [assignment]).published == {}
    own = override(named("tiger_beauty"), ["data.name=Video_Games", "published={ours: {recall@10: 0.1}}"])
    assert own.published == {"ours": {"recall@10": 0.1}}
    assert override(named("tiger_kuairec"), ["data.watch_ratio=1"]).published == named("tiger_kuairec").published


def test_vectors_of_who_chose_what_are_for_models_without_items_of_their_own_and_for_kuairec() -> None:
    fused = {name for name in experiments() if named(name).embed.collaborative}
    neighbours = {name for name in experiments() if name.startswith("hybridknn_")}
    written = {f"{model}_{data}" for model in ("causal", "tiger_copying") for data in ("beauty", "sports", "toys")}
    kuairec = {f"{model}_kuairec" for model in ("tiger_small", "glass_small", "rpg", "causal", "sidlight")}
    assert fused == written | kuairec | neighbours and len(neighbours) == 5


def test_vectors_are_whitened_for_neighbours_on_amazon() -> None:
    white = {name for name in experiments() if named(name).embed.whiten}
    assert white == {f"{model}_{data}" for model in ("itemknn", "hybridknn") for data in ("beauty", "sports", "toys")}


def test_the_small_glass_is_the_small_tiger_with_a_long_history() -> None:
    glass, tiger = named("glass_small_kuairec"), named("tiger_small_kuairec")
    shared = {field.name for field in dataclasses.fields(EncoderDecoderConfig)}
    assert {getattr(glass.model, name) == getattr(tiger.model, name) for name in shared} == {True}
    assert dataclasses.replace(glass, name=tiger.name, model=tiger.model) == tiger


def test_the_tiger_that_copies_differs_in_ids_copying_and_steps_alone() -> None:
    other = ["tokenizer=opq", "tokenizer.depth=4", "embed.collaborative=1", "model.copies=true", "train.max_epochs=12"]
    changed = override(named("tiger_small_beauty"), other)
    assert dataclasses.replace(changed, name="tiger_copying_beauty") == named("tiger_copying_beauty")
