"""A trained run as a folder to ship: `python -m experiments.export RUN OUT`.

OUT is a bundle (weights and codes in safetensors, sizes and provenance in JSON, items in Parquet) that `recommend`,
`serve` and `serving.recommender.Recommender.load` take. A TIGER that copies nothing is there a second time as a Hugging
Face T5, in hugging_face/. With `scorer` the step that scores given items is exported for runtimes without this code.
"""

import shutil
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from experiments.run import answer, take, wait_passively
from sid.errors import UserError, require

USAGE = """usage: python -m experiments.export RUN OUT [scorer=false] [examples=true] [force=false]

RUN: a run folder, such as runs/tiger_tiny/1a2b3c4d5e6f. OUT: a folder that is not there yet; force=true replaces it.
scorer=true also writes scorer.pt2, a torch.export program that scores items.
examples=false leaves out the test users with their histories that the service's page shows.
"""


def export(arguments: Sequence[str]) -> None:
    """Writes the folder aside and renames it: it is whole or not there."""
    own = {"scorer": "false", "examples": "true", "force": "false"}
    folders = take(arguments, own)
    if len(folders) != 2:
        raise UserError(f"expected a run and a folder to write\n{USAGE}")
    for name, value in own.items():
        require(value in ("true", "false"), name, value, "true or false")
    run, out = (Path(folder).absolute() for folder in folders)
    wait_passively()
    from safetensors import SafetensorError

    from experiments.deploy import bundle_of
    from models.hugging_face import save_hugging_face
    from models.tiger import Tiger
    from serving.bundle import CARD
    from serving.scorer import save_scorer

    if out.exists():
        if own["force"] == "false":
            raise UserError(f"{out} is there already; name another folder, or add force=true to replace a bundle")
        if not (out / CARD).is_file():
            raise UserError(f"{out} is no bundle ({CARD} is missing) and is not replaced; name another folder")
    bundle = bundle_of(run)
    if own["examples"] == "false":
        bundle = replace(bundle, examples=bundle.examples.slice(0, 0))
    aside, before = (out.with_name(f".{out.name}.{word}") for word in ("new", "old"))
    try:
        shutil.rmtree(aside, ignore_errors=True)
        if own["scorer"] == "true":
            save_scorer(bundle, aside)
        if type(bundle.model) is Tiger and bundle.model.copying is None:
            save_hugging_face(bundle.model, aside / "hugging_face")
        bundle.save(aside)
        put(aside, out, before)
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"{getattr(error, 'filename', None) or out} cannot be written: {reason}") from error
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    size = sum(path.stat().st_size for path in out.rglob("*"))
    print(f"{out}: {size / 2**20:.1f} MiB in {', '.join(sorted(path.name for path in out.iterdir()))}")


def put(aside: Path, out: Path, before: Path) -> None:
    """Renames `aside` to `out`; what is there steps aside to `before`, and back where that fails."""
    if not out.exists():
        aside.replace(out)
        return
    shutil.rmtree(before, ignore_errors=True)
    out.replace(before)
    try:
        aside.replace(out)
    except OSError:
        before.replace(out)
        raise
    shutil.rmtree(before, ignore_errors=True)


def main(arguments: list[str]) -> int:
    return answer(arguments, USAGE, export)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
