"""Item vectors that are there already, in a file or beside the catalogue, checked against its items.

N items, D vector width.
"""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from sid.errors import UserError


def read_vectors(path: Path, items: pa.Table) -> np.ndarray:
    """(N, D) numbers, row i for row i of `items`: a .npy file by position, mapped, or a .parquet file (columns item,
    vector) by raw id, float32.

    Raises UserError for a file that is missing, cannot be read, or does not fit the items.
    """
    readers = {".npy": _read_npy, ".parquet": _read_parquet}
    if path.suffix not in readers:
        raise UserError(f"embed.path={path} ends in {path.suffix!r}; it must be a .npy or .parquet file")
    if not path.is_file():
        raise UserError(f"embed.path={path} does not exist or is no file (looked in {path.parent.resolve()})")
    return readers[path.suffix](path, items)


def _read_npy(path: Path, items: pa.Table) -> np.ndarray:
    try:
        vectors_ND = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        raise UserError(f"{path} cannot be read as a .npy array of numbers: {error}") from error
    if not isinstance(vectors_ND, np.ndarray):
        raise UserError(f"{path} holds several arrays (.npz); expected one")
    if vectors_ND.ndim != 2 or vectors_ND.shape[1] == 0 or vectors_ND.dtype.kind not in "fiu":
        raise UserError(f"{path} holds {vectors_ND.dtype} {vectors_ND.shape}; expected numbers of shape (items, width)")
    if len(vectors_ND) != items.num_rows:
        raise UserError(
            f"{path} has {len(vectors_ND)} rows, the catalogue has {items.num_rows} items. A .npy goes by position: "
            "give one row per item in catalogue order, or a .parquet file (columns item, vector), which goes by id"
        )
    return vectors_ND


def _read_parquet(path: Path, items: pa.Table) -> np.ndarray:
    import pyarrow.parquet as pq

    try:
        columns = pq.read_schema(path).names
        missing = [name for name in ("item", "vector") if name not in columns]
        if missing:
            raise UserError(f"{path} lacks the column {', '.join(missing)} (it has {', '.join(columns)})")
        table = pq.read_table(path, columns=["item", "vector"])
        ids = table["item"].cast(pa.large_string()).combine_chunks()
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"{path} cannot be read as Parquet: {error}") from error

    kind = table["vector"].type
    if not (
        (pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind))
        and (pa.types.is_floating(kind.value_type) or pa.types.is_integer(kind.value_type))
    ):
        raise UserError(f"{path}: the column vector is {kind}; expected a list of floats")

    if len(pc.unique(ids)) != len(ids):
        counts = pc.value_counts(ids)
        twice = counts.filter(pc.greater(counts.field("counts"), 1))[0].as_py()
        raise UserError(f"{path}: item {twice['values']!r} has {twice['counts']} rows; expected one")
    wanted = items["item"].cast(pa.large_string())
    row_N = pc.index_in(wanted, value_set=ids)
    if row_N.null_count:
        first = wanted.filter(pc.is_null(row_N))[0].as_py()
        raise UserError(f"{path} lacks {row_N.null_count} of the {len(wanted)} catalogue items, first: {first!r}")

    lengths = pc.fill_null(pc.list_value_length(table["vector"]), 0).to_numpy()
    width = int(lengths[np.argmax(lengths > 0)])
    odd = (lengths != width) | (lengths == 0)
    if odd.any():
        row = int(odd.argmax())
        raise UserError(f"{path}: the vector of item {ids[row].as_py()!r} has {lengths[row]} numbers, others {width}")
    flat = [pc.list_flatten(chunk).to_numpy(zero_copy_only=False) for chunk in table["vector"].chunks]
    return np.concatenate(flat).astype(np.float32).reshape(-1, width)[row_N.to_numpy()]
