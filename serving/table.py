"""Histories of a Parquet file, however long, to recommendations in another.

The file is answered in parts, which are kept until all are there: a killed run goes on with the first part it lacks.
"""

import hashlib
import json
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from filelock import FileLock, Timeout

from serving.recommender import Question, Recommender
from sid.errors import UserError

PART_USERS, BATCH_USERS = 20_000, 64
SCHEMA = pa.schema([("user", pa.string()), ("items", pa.list_(pa.string())), ("scores", pa.list_(pa.float32()))])


class Done(NamedTuple):
    answered: int
    """Users with recommendations."""
    empty: int
    """Users with an empty list: of their history no item is known, or it leaves none to recommend."""


def recommend_table(
    recommender: Recommender, users: Path, out: Path, question: Question, part_users: int = PART_USERS
) -> Done:
    """Writes columns user, items and scores, one row a user in the order of the file, best items first.

    Args:
        users: a Parquet file with columns user and history (a list of item ids, oldest first).

    Raises:
        UserError: the file cannot be read or lacks a column, the output cannot be written, the question is wrong.
    """
    recommender.wanted(question)
    if out.resolve() == users.resolve():
        raise UserError(f"--out {out} is the file of the histories; name another")
    if out.is_dir() or not out.absolute().parent.is_dir():
        raise UserError(f"--out {out}: expected a file in a folder that is there")
    source = open_histories(users)
    lock = FileLock(out.with_name(f".{out.name}.lock"))
    try:
        with lock.acquire(timeout=0):
            done = _answer_all(recommender, source, users, out, question, part_users)
        Path(lock.lock_file).unlink(missing_ok=True)
    except Timeout as error:
        raise UserError(f"another process is writing {out}; wait for it, or name another file") from error
    except OSError as error:
        raise UserError(f"{error.filename or out} cannot be written: {error.strerror or error}") from error
    return done


def _answer_all(
    recommender: Recommender, source: pq.ParquetFile, users: Path, out: Path, question: Question, part_users: int
) -> Done:
    from rich.progress import track

    key = {"users": str(users.resolve()), "rows": source.metadata.num_rows, "changed": users.stat().st_mtime_ns}
    key |= {"question": question._asdict(), "model": fingerprint(recommender), "part": part_users}
    parts_folder = out.with_name(f".{out.name}.parts")
    folder = start_parts(parts_folder, key)
    parts = [folder / f"{number:06}.parquet" for number in range(-(-source.metadata.num_rows // part_users))]
    answered = empty = 0
    stretches = _parts(source, users, part_users)
    for path, rows in zip(parts, track(stretches, "users", total=len(parts), transient=True), strict=True):
        if not is_whole(path):
            aside = path.with_suffix(".new")
            pq.write_table(_answer(recommender, rows, question), aside)
            aside.replace(path)
        filled = pc.list_value_length(pq.read_table(path, columns=["items"])["items"]).to_pylist()
        answered, empty = answered + sum(map(bool, filled)), empty + filled.count(0)
    _join(parts, out)
    shutil.rmtree(parts_folder)
    return Done(answered, empty)


def open_histories(path: Path) -> pq.ParquetFile:
    """Raises UserError where the file is missing, damaged, or has not the columns that are needed."""
    try:
        source = pq.ParquetFile(path)
    except (OSError, ValueError) as error:
        raise UserError(f"{path} is no readable Parquet file ({error})") from error
    schema = source.schema_arrow
    if not schema.names.count("user") == schema.names.count("history") == 1:
        names = ", ".join(schema.names)
        raise UserError(f"{path} has columns {names}; it needs one user and one history (a list of item ids)")
    if not is_ids(schema.field("history").type):
        raise UserError(
            f"{path}: column history is {schema.field('history').type}; expected a list of item ids, as text or whole "
            "numbers"
        )
    return source


def is_ids(kind: pa.DataType) -> bool:
    """Whether it is that of a list of item ids, or of lists that are all empty."""
    types = pa.types
    if not (types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind)):
        return False
    one = kind.value_type.value_type if types.is_dictionary(kind.value_type) else kind.value_type
    tests = (types.is_string, types.is_large_string, types.is_string_view, types.is_integer, types.is_null)
    return any(test(one) for test in tests)


def is_whole(part: Path) -> bool:
    """Whether a part is there and can be read."""
    try:
        return bool(pq.read_table(part).schema == SCHEMA)
    except (OSError, pa.ArrowException):
        return False


def start_parts(folder: Path, key: dict[str, Any]) -> Path:
    """The folder of the parts that answer this question; those of others stay until one is answered to its end."""
    text = json.dumps(key, sort_keys=True)
    own = folder / hashlib.sha256(text.encode()).hexdigest()[:12]
    own.mkdir(parents=True, exist_ok=True)
    (own / "question.json").write_text(text)
    return own


def fingerprint(recommender: Recommender) -> str:
    """12 hex digits of all that answers depend on: sizes, weights, inputs, items, codes."""
    bundle, digest = recommender.bundle, hashlib.sha256()
    card = {name: value for name, value in asdict(bundle.card).items() if name != "provenance"}
    digest.update(json.dumps(card, sort_keys=True).encode())
    codes = {} if bundle.table is None else {"codes": bundle.table.codes_NL}
    for name, tensor in sorted({**bundle.model.state_dict(), **bundle.inputs, **codes}.items()):
        digest.update(name.encode() + tensor.cpu().contiguous().numpy().tobytes())
    digest.update(json.dumps(bundle.items.select(["item", "candidate"]).to_pydict()).encode())
    return digest.hexdigest()[:12]


def _parts(source: pq.ParquetFile, path: Path, size: int) -> Iterator[pa.Table]:
    """Stretches of `size` rows, the last one shorter. Raises UserError where the file is damaged."""
    waiting: list[pa.RecordBatch] = []
    try:
        for batch in source.iter_batches(size, columns=["user", "history"]):
            waiting.append(batch)
            while sum(map(len, waiting)) >= size:
                whole = pa.Table.from_batches(waiting)
                yield whole.slice(0, size)
                waiting = whole.slice(size).to_batches()
    except (OSError, pa.ArrowException) as error:
        raise UserError(f"{path} is damaged: {error}") from error
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
        lists = recommender.answer([histories[row] for row in some], question, [numbers[row] for row in some]).lists
        answers = zip(some, lists.items_BK.tolist(), lists.scores_BK.tolist(), strict=True)
        for row, items_K, scores_K in answers:
            items[row] = [raw_ids[item] for item in items_K if item >= 0]
            scores[row] = [score for item, score in zip(items_K, scores_K, strict=True) if item >= 0]
    return pa.table({"user": users, "items": items, "scores": scores}, schema=SCHEMA)


def _join(parts: Sequence[Path], out: Path) -> None:
    aside = out.with_name(f".{out.name}.new")
    with pq.ParquetWriter(aside, SCHEMA) as writer:
        for path in parts:
            writer.write_table(pq.read_table(path))
    aside.replace(out)
