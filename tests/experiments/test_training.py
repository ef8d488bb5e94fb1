"""What training and evaluation take from a catalogue: what may be learnt, what may be recommended.

U users, N items, M events, E examples, K ranks.
"""

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from callbacks.recommendations import RecommendationFile
from datamodules import split as splitting
from datamodules.catalog import ITEM_SCHEMA, USER_SCHEMA, Catalog
from datamodules.split import Examples, Split, SplitConfig
from datamodules.synthetic import SyntheticConfig
from experiments import trainers, training
from experiments.config import EvaluationConfig, TrainConfig
from experiments.example_users import example_users
from experiments.named import named
from experiments.overrides import override
from experiments.pipeline import Pipeline
from sid.decode import Recommendations
from sid.errors import UserError
from sid.table import SIDTable

NONE = Examples(np.empty(0, np.int32), np.empty(0, np.int64), np.empty(0, np.int64))


def slow_learnt_items(catalog: Catalog, split: Split) -> np.ndarray:
    """All at once: the items of every training target and of what lies before it."""
    last_U = np.full(catalog.num_users, -1)
    np.maximum.at(last_U, split.train.user_E, split.train.target_E)
    user_M = np.repeat(np.arange(catalog.num_users), np.diff(catalog.offsets_U1))
    return catalog.item_M[np.arange(catalog.num_events) <= last_U[user_M]]


@st.composite
def logs(draw: st.DrawFn) -> tuple[Catalog, Split]:
    """A log with some of its events as training targets."""
    lengths = draw(st.lists(st.integers(1, 6), min_size=1, max_size=6))
    offsets_U1 = np.cumsum([0, *lengths])
    item_M = np.array([draw(st.integers(0, 4)) for _ in range(offsets_U1[-1])], np.int32)
    target_E = np.array(sorted(draw(st.sets(st.integers(0, len(item_M) - 1)))), np.int64)
    user_E = (np.searchsorted(offsets_U1, target_E, side="right") - 1).astype(np.int32)
    items = pa.Table.from_pylist([{"item": str(n)} for n in range(5)], schema=ITEM_SCHEMA)
    catalog = Catalog(items, USER_SCHEMA.empty_table(), offsets_U1, item_M, np.zeros(len(item_M), np.int64))
    return catalog, Split(Examples(user_E, target_E, target_E), NONE, NONE)


@settings(max_examples=60)
@given(logs(), st.integers(1, 9))
def test_learnt_items_are_counted_as_all_at_once_whatever_the_stretch(
    case: tuple[Catalog, Split], stretch: int
) -> None:
    catalog, split = case
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(splitting, "STRETCH_EVENTS", stretch)
        count_N = splitting.learnt_counts(catalog, split)
    assert count_N.tolist() == np.bincount(slow_learnt_items(catalog, split), minlength=5).tolist()


def some_candidates(every: int) -> Catalog:
    """A catalogue of which only every n-th item may be recommended."""
    catalog = SyntheticConfig(num_users=80, num_items=90).build()
    candidate = pa.array(np.arange(90) % every == 0)
    place = ITEM_SCHEMA.get_field_index("candidate")
    return replace(catalog, items=catalog.items.set_column(place, "candidate", candidate))


def test_popularity_recommends_the_most_frequent_of_what_may_be_recommended() -> None:
    config, catalog = EvaluationConfig(), some_candidates(every=3)
    split = SplitConfig().build(catalog)
    counts = np.bincount(slow_learnt_items(catalog, split), minlength=90)
    top = sorted(range(0, 90, 3), key=lambda item: -counts[item])
    target_E = catalog.item_M[split.test.target_E]
    found = training.popularity(config, catalog, split)
    for k in (1, 5, 10, 20):
        assert found[f"recall@{k}"] == pytest.approx(np.isin(target_E, top[:k]).mean())
    assert found["coverage@10"] == pytest.approx(10 / 30)


def test_a_running_mean_of_weights_leaves_tables_of_numbers_as_they_are(tmp_path, monkeypatch) -> None:
    config = override(named("fdsa_tiny"), ["data.num_users=60", "train.max_epochs=1", "train.validate_every=1"])
    config = override(config, ["train.ema=0.9995", "sequences.steps_per_epoch=3", f"output_dir={tmp_path}"])
    pipeline = Pipeline(config)
    pipeline.run("prepare", lambda *_: None)
    module, data = pipeline.retriever()
    before_NA = module.model.attributes_NA.clone()
    monkeypatch.setattr(Pipeline, "retriever", lambda _: (module, data))
    pipeline.run("train", lambda *_: None)
    assert torch.equal(module.model.attributes_NA, before_NA)


def test_only_what_may_be_recommended_is_decoded_or_counts_as_valid() -> None:
    catalog = some_candidates(every=2)
    item_N = torch.arange(90)
    table = SIDTable(torch.stack([item_N // 10, item_N % 10], dim=1), (9, 10))
    callback = training.retrieval(EvaluationConfig(), table, catalog, None)
    expected = torch.where(item_N % 2 == 0, item_N, -1)
    assert callback.tree.items(torch.arange(45), torch.empty(0)).tolist() == list(range(0, 90, 2))
    assert callback.free_tree.items(torch.empty(0), table.codes_NL).tolist() == expected.tolist()
    assert table.items_of(table.codes_NL).tolist() == item_N.tolist()  # the table still knows them all
    whole = SyntheticConfig(num_users=80, num_items=90).build()
    everything = training.retrieval(EvaluationConfig(), table, whole, None)
    assert everything.tree is table.trie


def test_a_user_with_several_targets_has_one_list_and_is_shown_with_the_history_before_all_of_them(tmp_path) -> None:
    rows = [{"item": str(n), "category": "c", "categories": []} for n in range(6)]
    users = pa.table([["u", "v"], ["test", "test"], pa.array([2, 1], pa.int32())], schema=USER_SCHEMA)
    item_M = np.array([0, 1, 2, 3, 4, 5], np.int32)  # u: 0 1, then the targets 2 3; v: 4, then 5
    items = pa.Table.from_pylist(rows, schema=ITEM_SCHEMA)
    catalog = Catalog(items, users, np.array([0, 4, 6]), item_M, np.zeros(6, np.int64))
    examples = Examples(np.array([0, 0, 1], np.int32), np.array([2, 3, 5]), np.array([2, 2, 5]))
    file = RecommendationFile(catalog.items["item"])
    for users_B in ([1, 0], [0]):
        items_BK = torch.tensor([[5, 3]] * len(users_B))
        file(Recommendations(items_BK, -items_BK.float(), None), type("Batch", (), {"user_B": torch.tensor(users_B)}))
    file.write(tmp_path / "lists.parquet")
    item_N = torch.arange(6)
    table = SIDTable(torch.stack([item_N // 3, item_N % 3], dim=1), (2, 3))
    u, v = example_users(tmp_path / "lists.parquet", catalog, examples, table)
    assert ([shown.raw_id for shown in u.history], u.num_before, u.target.raw_id, u.rank) == (["0", "1"], 2, "3", 2)
    assert [shown.raw_id for shown in u.answers] == ["5", "3"]
    assert ([shown.raw_id for shown in v.history], v.num_before, v.target.raw_id, v.rank) == (["4"], 1, "5", 1)


@pytest.mark.parametrize(
    ("wanted", "has", "expected"),
    [
        ("bf16-mixed", True, "bf16-mixed"),
        ("bf16-mixed", False, "32-true"),
        ("32-true", True, "32-true"),
        ("32-true", False, "32-true"),
    ],
)
def test_a_machine_without_bfloat16_arithmetic_computes_in_float32_and_says_so_once(
    wanted: str, has: bool, expected: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(trainers, "has_bfloat16", lambda accelerator: has)
    trainers.tell_float32.cache_clear()
    for _ in range(2):
        options = trainers.hardware(TrainConfig(precision=wanted, accelerator="cpu", devices="2"))
    assert (options["precision"], options["devices"]) == (expected, 2)
    assert capsys.readouterr().out.count("no bfloat16 arithmetic") == (wanted != expected)


@pytest.mark.parametrize("has", [False, True])
def test_the_device_that_computes_is_the_one_that_is_asked(has: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: not including_emulation and has)
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    assert [trainers.has_bfloat16(name) for name in ("auto", "gpu", "cuda", "cpu")] == [has, has, has, False]


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
@pytest.mark.parametrize("has", [False, True])
def test_of_processors_x86_needs_its_own_instructions(has: bool, machine: str, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = {"x86_64": has, "aarch64": not has}
    monkeypatch.setattr(trainers.platform, "machine", lambda: machine)
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: True)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: asked["x86_64"])
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: asked["aarch64"], raising=False)
    assert trainers.has_bfloat16("cpu") == asked[machine]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there_is_told() -> None:
    with pytest.raises(UserError, match=r"train\.accelerator=gpu, train\.devices=1: .*CUDA"):
        trainers.trainer([], accelerator="gpu", devices=1)
    assert trainers.device_of("auto").type == "cpu"


def test_a_trainer_is_deterministic_but_does_not_fill_new_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.utils.deterministic, "fill_uninitialized_memory", True)
    trainers.trainer([], accelerator="cpu")
    assert torch.are_deterministic_algorithms_enabled()
    assert not torch.utils.deterministic.fill_uninitialized_memory
