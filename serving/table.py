"""Histories of a Parquet file, however long, to recommendations in another.

The file is answered in parts, which are kept until all are there: a killed run goes on with the first part it lacks.
"""

import hashlib
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from serving.recommender import Question, Recommender
from sid.errors import UserError

PART_USERS, BATCH_USERS = 20_000, 64
SCHEMA = pa.schema([("user", pa.string()), ("items", pa.list_(pa.string())), ("scores", pa.list_(pa.float32()))])


class Done(NamedTuple):
    answered: int
    """Users with recommendations."""
    empty: int
    """Users of whose history no item is known; they have an empty list."""


def recommend_table(
    recommender: Recommender, users: Path, out: Path, question: Question, part_users: int = PART_USERS
) -> Done:
    """Writes columns user, items and scores, one row a user in the order of the file, best items first.

    Args:
        users: a Parquet file with columns user and history (a list of item ids, oldest first).

    Raises:
        UserError: the file cannot be read or lacks a column, the output cannot be written, the question is wrong.
    """
    from rich.progress import track

    source = open_histories(users)
    folder = out.with_name(f".{out.name}.parts")
    key = {"users": str(users.resolve()), "rows": source.metadata.num_rows, "changed": users.stat().st_mtime_ns}
    key |= {"question": question._asdict(), "model": fingerprint(recommender), "part": part_users}
    try:
        folder = start_parts(folder, key)
        parts = -(-source.metadata.num_rows // part_users)
        answered = empty = 0
        for number, rows in enumerate(track(_parts(source, part_users), "users", total=parts, transient=True)):
            path = folder / f"{number:06}.parquet"
            if not path.exists():
                aside = path.with_suffix(".new")
                pq.write_table(_answer(recommender, rows, question), aside)
                aside.replace(path)
            filled = pa.compute.list_value_length(pq.read_table(path, columns=["items"])["items"]).to_pylist()
            answered, empty = answered + sum(map(bool, filled)), empty + filled.count(0)
        _join(folder, out)
    except OSError as error:
        raise UserError(f"{error.filename or out} cannot be written: {error.strerror or error}") from error
    return Done(answered, empty)


def open_histories(path: Path) -> pq.ParquetFile:
    """Raises UserError where the file is missing, damaged, or has not the columns that are needed."""
    try:
        source = pq.ParquetFile(path)
    except (OSError, ValueError) as error:
        raise UserError(f"{path} is no readable Parquet file ({error})") from error
    schema = source.schema_arrow
    missing = {"user", "history"} - set(schema.names)
    if missing:
        raise UserError(f"{path} has columns {', '.join(schema.names)}; it needs user and history (a list of item ids)")
    if not (pa.types.is_list(schema.field("history").type) or pa.types.is_large_list(schema.field("history").type)):
        raise UserError(f"{path}: column history is {schema.field('history').type}; expected a list of item ids")
    return source


def start_parts(folder: Path, key: dict[str, Any]) -> Path:
    """The folder of the parts, emptied where they answer another question."""
    note = folder / "question.json"
    text = json.dumps(key, sort_keys=True)
    if not note.exists() or note.read_text() != text:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        note.write_text(text)
    return folder


def fingerprint(recommender: Recommender) -> str:
    """12 hex digits of the weights."""
    digest = hashlib.sha256()
    for name, weight in sorted(recommender.bundle.model.state_dict().items()):
        digest.update(name.encode() + weight.cpu().float().numpy().tobytes())
    return digest.hexdigest()[:12]


def _parts(source: pq.ParquetFile, size: int) -> Iterator[pa.Table]:
    """Stretches of `size` rows, the last one shorter."""
    waiting: list[pa.RecordBatch] = []
    for batch in source.iter_batches(size, columns=["user", "history"]):
        waiting.append(batch)
        while sum(map(len, waiting)) >= size:
            whole = pa.Table.from_batches(waiting)
            yield whole.slice(0, size)
            waiting = whole.slice(size).to_batches()
    if sum(map(len, waiting)):
        yield pa.Table.from_batches(waiting)


def _answer(recommender: Recommender, rows: pa.Table, question: Question) -> pa.Table:
    """One part; users with histories of like length are answered together."""
    users = [None if user is None else str(user) for user in rows["user"].to_pylist()]
    histories = [recommender.numbers([str(raw) for raw in history or ()])[0] for history in rows["history"].to_pylist()]
    numbers, raw_ids = recommender.user_numbers(users), recommender.bundle.items["item"].to_pylist()
    items: list[list[str]] = [[] for _ in users]
    scores: list[list[float]] = [[] for _ in users]
    order = sorted((row for row, history in enumerate(histories) if history), key=lambda row: -len(histories[row]))
    for start in range(0, len(order), BATCH_USERS):
        some = order[start : start + BATCH_USERS]
        asked = question._replace(seed=question.seed + start)
        lists = recommender.answer([histories[row] for row in some], asked, [numbers[row] for row in some]).lists
        answers = zip(some, lists.items_BK.tolist(), lists.scores_BK.tolist(), strict=True)
        for row, items_K, scores_K in answers:
            items[row] = [raw_ids[item] for item in items_K if item >= 0]
            scores[row] = [score for item, score in zip(items_K, scores_K, strict=True) if item >= 0]
    return pa.table({"user": users, "items": items, "scores": scores}, schema=SCHEMA)


def _join(folder: Path, out: Path) -> None:
    aside = out.with_name(f".{out.name}.new")
    with pq.ParquetWriter(aside, SCHEMA) as writer:
        for path in sorted(folder.glob("*.parquet")):
            writer.write_table(pq.read_table(path))
    aside.replace(out)
    shutil.rmtree(folder)
