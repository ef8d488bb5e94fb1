"""The HTTP service of a trained run: `make serve RUN=runs/tiger_tiny/1a2b3c4d5e6f`."""

import socket
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from experiments.run import answer, take, wait_passively
from sid.errors import UserError, require

USAGE = """usage: make serve RUN=<folder> [ARGS="port=8000 ..."]
       python -m experiments.serve <folder> [host=127.0.0.1] [port=8000] [device=cpu] [batch=64]

folder: a run, or an exported bundle. The page is at /, the API is described at /docs and /openapi.json.
batch: histories that are answered together at most.
"""


def serve(arguments: Sequence[str]) -> None:
    """Runs the service until it is stopped."""
    own = {"host": "127.0.0.1", "port": "8000", "device": "cpu", "batch": "64"}
    folders = take(arguments, own)
    if len(folders) != 1:
        raise UserError(f"expected one folder, not {len(folders)}\n{USAGE}")
    for name, most in (("port", 65535), ("batch", 1024)):
        require(own[name].isdecimal() and 1 <= int(own[name]) <= most, name, own[name], f"1 to {most}")
    wait_passively()
    try:
        import uvicorn

        from serving.service import create_app
    except ImportError as error:
        raise UserError("the service needs the extra serve: pip install -e '.[serve]'") from error
    from experiments.deploy import recommender
    from serving.recommender import Question

    ready = recommender(Path(folders[0]), own["device"])
    ready.answer([[0]], Question(k=1))  # a model makes some tables when it is first asked
    app = create_app(ready, int(own["batch"]))
    place = bound(own["host"], int(own["port"]))
    print(f"http://{own['host']}:{own['port']}", flush=True)
    with suppress(KeyboardInterrupt):  # how it is stopped
        uvicorn.Server(uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=5)).run([place])


def bound(host: str, port: int) -> socket.socket:
    """What listens there. Raises UserError where the port is taken, or the host is none of this machine's."""
    try:
        place = socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except OSError as error:
        raise UserError(f"host={host} port={port} cannot be served: {error.strerror}; choose another") from error
    place.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # else an answer's body waits for the head's receipt
    return place


def main(arguments: list[str]) -> int:
    return answer(arguments, USAGE, serve)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
