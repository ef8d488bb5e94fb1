"""TAOBAO-MM at scale: a made-up set is written, prepared and read in batches; seconds, rates and peak memory of each.

    python -m benchmarks.taobao_scale [--users 100000] [--history 1000] [--items 1000000] [--samples-per-user 2]
        [--targets 1000000] [--shards 8] [--batches 200] [--folder /tmp]

Every step runs in a process of its own, whose peak resident memory (which counts mapped files) is printed. The files
(about 10 bytes an event) are deleted at the end. 1e9 events: --users 1000000.

Legend: N items, L levels.
"""

import argparse
import importlib
import multiprocessing
import resource
import shutil
import tempfile
import time
from collections.abc import Callable
from itertools import chain, islice
from pathlib import Path
from typing import Any

Figures = dict[str, float]


def measured(step: Callable[..., Figures], *arguments: Any) -> Figures:
    """What a step returns, its seconds and its peak memory, from a fresh process."""
    context = multiprocessing.get_context("spawn")
    with context.Pool(1) as pool:
        return pool.apply(_timed, (step, *arguments))


def _timed(step: Callable[..., Figures], *arguments: Any) -> Figures:
    start = time.perf_counter()
    figures = step(*arguments)
    figures.setdefault("seconds", time.perf_counter() - start)
    return figures | {"peak_gib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20}


def generate(folder: Path, options: argparse.Namespace) -> Figures:
    from datamodules.taobao_synthetic import write_taobao

    sizes = options.users, options.history, options.items, options.samples_per_user
    write_taobao(folder / "taobao_mm", *sizes, shards=options.shards)
    return {"events": options.users * options.history, "mib": _size(folder / "taobao_mm")}


def prepare(folder: Path, options: argparse.Namespace) -> Figures:
    from datamodules.taobao_mm import TaobaoMMConfig

    (folder / "prepared").mkdir()
    config = TaobaoMMConfig(data_dir=str(folder), num_targets=options.targets)
    figures = config.write(folder / "prepared")
    kept = {name: figures[name] for name in ("users", "items", "candidates", "samples")}
    return {"events": figures["interactions"], "mib": _size(folder / "prepared")} | kept


def start_epoch(folder: Path, options: argparse.Namespace) -> Figures:
    """The catalogue loaded, divided and cut into the batches of an epoch, and the most popular items counted."""
    from datamodules.catalog import Catalog
    from datamodules.split import SplitConfig, learnt_counts

    importlib.import_module("datamodules.sequences")  # torch and Lightning, which count as start-up
    start = time.perf_counter()
    catalog = Catalog.load(folder / "prepared")
    split = SplitConfig("given").build(catalog)
    batches = len(_data(catalog, split).epoch_batches(0))
    seconds = time.perf_counter() - start
    learnt_counts(catalog, split)
    counting = time.perf_counter() - start - seconds
    return {
        "events": catalog.num_events,
        "seconds": seconds,
        "batches": batches,
        "counting_seconds": round(counting, 1),
    }


def read(folder: Path, options: argparse.Namespace) -> Figures:
    from datamodules.catalog import Catalog
    from datamodules.split import SplitConfig

    catalog = Catalog.load(folder / "prepared")
    data = _data(catalog, SplitConfig("given").build(catalog))
    loader = data.train_dataloader()
    start, samples, events = time.perf_counter(), 0, 0
    for part in chain.from_iterable(islice(loader, options.batches)):
        samples += len(part.target_B)
        events += int((part.history_BT >= 0).sum())
    seconds = time.perf_counter() - start
    return {"events": events, "seconds": seconds, "samples": samples, "samples_per_second": round(samples / seconds)}


def _data(catalog: Any, split: Any) -> Any:
    """Batches of 256 with up to 1,000 history items, of four codes each."""
    import torch

    from datamodules.configs import SequenceConfig
    from datamodules.sequences import SequenceDataModule
    from sid.table import SIDTable
    from sid.tokens import TokenSpace

    sizes = (256, 256, 256, 1 + catalog.num_items // 256**3)
    item_N = torch.arange(catalog.num_items)
    table = SIDTable(
        torch.stack([item_N % 256, item_N // 256 % 256, item_N // 256**2 % 256, item_N // 256**3], 1), sizes
    )
    config = SequenceConfig(max_items=50, long_items=1000, batch_size=256)
    return SequenceDataModule(config, catalog, split, table, TokenSpace(sizes), seed=0, reads_long=True)


def _size(folder: Path) -> int:
    """In MiB."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) >> 20


def main() -> None:
    from rich.box import SIMPLE
    from rich.console import Console
    from rich.table import Table

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    usual = {"users": 100_000, "history": 1000, "items": 1_000_000, "samples-per-user": 2, "targets": 10**6}
    for name, value in (usual | {"shards": 8, "batches": 200}).items():
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()), help="where the files go")
    options = parser.parse_args()
    if options.folder:
        Path(options.folder).mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix="taobao_scale_", dir=options.folder))
    console = Console()
    table = Table("step", "seconds", "events", "events/s", "peak GiB", "", title="TAOBAO-MM", box=SIMPLE)
    try:
        for step in (generate, prepare, start_epoch, read):
            found = measured(step, folder, options)
            seconds, events, peak = found.pop("seconds"), found.pop("events"), found.pop("peak_gib")
            more = "\n".join(f"{name} {value:,.10g}" for name, value in found.items())
            table.add_row(
                step.__name__, f"{seconds:,.1f}", f"{events:,}", f"{events / seconds:,.0f}", f"{peak:.2f}", more
            )
            console.log(f"{step.__name__}: {seconds:,.1f} s")
    finally:
        shutil.rmtree(folder)
    console.print(table)


if __name__ == "__main__":
    main()
