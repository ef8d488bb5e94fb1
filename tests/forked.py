"""Commands in processes of their own that are forked with their imports done, which is most of what a tiny run takes.

Two ranks are started with what torchrun tells its processes.
"""

import faulthandler
import multiprocessing
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Sequence
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(
    ["experiments.training", "experiments.tokenize", "experiments.report", "sklearn.cluster"]
)


def _begin(work: Callable[..., Any], arguments: Sequence[Any], surroundings: dict[str, str], errors: Path) -> None:
    """Does the work in such an environment, with standard error in a file and standard output nowhere."""
    from experiments.run import leave

    os.environ.clear()
    os.environ.update(surroundings)
    for stream, path in ((1, os.devnull), (2, str(errors))):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), stream)
    faulthandler.enable(2)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    leave(work(*arguments) or 0)


class Started:
    """Processes that do the same work; killed with the test's own, should they still run."""

    def __init__(self, work: Callable[..., Any], *arguments: Any, errors: Path, ranks: int = 1) -> None:
        self.errors = [errors.with_name(f"{errors.name}{rank}") for rank in range(ranks)]
        told = [{}] if ranks == 1 else torchrun(ranks)
        self.processes: list[ForkServerProcess] = [
            CONTEXT.Process(target=_begin, args=(work, arguments, dict(os.environ) | told_by, path), daemon=True)
            for told_by, path in zip(told, self.errors, strict=True)
        ]
        for process in self.processes:
            process.start()

    @property
    def running(self) -> bool:
        return any(process.is_alive() for process in self.processes)

    def send(self, number: signal.Signals) -> None:
        for process in self.processes:
            if process.is_alive() and process.pid:
                os.kill(process.pid, number)

    def wait(self, seconds: float = 120) -> list[int | None]:
        """Their statuses; one that takes longer is killed. Where one fails the others, which may wait for it, are
        killed after a while, as torchrun does."""
        end = time.monotonic() + seconds
        try:
            while self.running and time.monotonic() < end:
                if any(process.exitcode for process in self.processes):
                    end = min(end, time.monotonic() + 40)
                time.sleep(0.02)
        finally:
            self.send(signal.SIGKILL)
        for process in self.processes:
            process.join()
        return [process.exitcode for process in self.processes]

    def said(self) -> str:
        return "\n".join(path.read_text() for path in self.errors if path.exists())


def torchrun(ranks: int) -> list[dict[str, str]]:
    """What torchrun tells each process on this machine."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    both = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "TORCHELASTIC_RUN_ID": "none", "GROUP_RANK": "0"}
    both |= {"WORLD_SIZE": str(ranks), "LOCAL_WORLD_SIZE": str(ranks)}
    if sys.platform == "linux":
        both["GLOO_SOCKET_IFNAME"] = "lo"  # does not ask for the machine's name, which may not resolve
    return [both | {"RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(ranks)]
