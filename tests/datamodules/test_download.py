import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from datamodules import download
from datamodules.download import fetch
from sid.errors import UserError

CONTENT = bytes(range(256)) * 40


class Handler(BaseHTTPRequestHandler):
    """/whole serves CONTENT with ranges, /cut stops half-way on the first request, /plain knows no ranges,
    /confused names another range than it sends, /slow pauses half-way, /short ends a range early and unannounced.
    But for /heedless, whoever asks for a range of another version than this one gets all of it."""

    version = '"one"'
    asked: list[tuple[str, str | None]] = []

    def do_GET(self) -> None:
        wanted = self.headers.get("Range")
        self.asked.append((self.path, wanted))
        if self.path == "/missing":
            return self.send_error(404)
        start = int(wanted.removeprefix("bytes=").removesuffix("-")) if wanted and self.path != "/plain" else 0
        if self.path != "/heedless" and self.headers.get("If-Range", self.version) != self.version:
            start = 0
        if start >= len(CONTENT):
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{len(CONTENT)}")
            self.end_headers()
            return None
        self.send_response(206 if start else 200)
        self.send_header("ETag", self.version)
        if not (start and self.path == "/short"):
            self.send_header("Content-Length", str(len(CONTENT) - start))
        if start:
            claimed = 0 if self.path == "/confused" else start
            self.send_header("Content-Range", f"bytes {claimed}-{len(CONTENT) - 1}/{len(CONTENT)}")
        self.end_headers()
        body = CONTENT[start:]
        self.wfile.write(body[: len(body) // 2])
        if self.path == "/slow":
            time.sleep(0.2)
        if self.path != "/short" and (self.path != "/cut" or wanted):
            self.wfile.write(body[len(body) // 2 :])
        return None

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[str]:
    Handler.asked = []
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        threading.Thread(target=running.serve_forever, args=(0.01,), daemon=True).start()
        yield f"http://127.0.0.1:{running.server_port}"
        running.shutdown()


def test_a_file_arrives_whole_and_is_not_asked_for_again(server: str, tmp_path: Path):
    target = tmp_path / "new" / "file"
    assert fetch(f"{server}/whole", target, "file") == target
    assert target.read_bytes() == CONTENT
    fetch(f"{server}/whole", target, "file")
    assert len(Handler.asked) == 1 and {path.name for path in target.parent.iterdir()} <= {"file", ".file.lock"}


def test_a_cut_connection_is_an_error_and_the_next_call_goes_on(server: str, tmp_path: Path):
    target = tmp_path / "file"
    with pytest.raises(UserError, match="ended after 5120 of 10240 bytes. Run again"):
        fetch(f"{server}/cut", target, "file")
    assert not target.exists() and (tmp_path / "file.part").stat().st_size == 5120
    fetch(f"{server}/cut", target, "file")
    assert target.read_bytes() == CONTENT
    assert Handler.asked == [("/cut", None), ("/cut", "bytes=5120-")]


def test_a_file_that_has_changed_since_starts_over(server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    with pytest.raises(UserError):
        fetch(f"{server}/cut", tmp_path / "file", "file")
    (tmp_path / "file.part").write_bytes(b"a" * 5120)
    monkeypatch.setattr(Handler, "version", '"two"')
    assert fetch(f"{server}/cut", tmp_path / "file", "file").read_bytes() == CONTENT
    assert {path.name for path in tmp_path.iterdir()} <= {"file", ".file.lock"}


def test_a_server_that_goes_on_with_another_version_starts_over(server: str, tmp_path: Path):
    (tmp_path / "file.part").write_bytes(b"a" * 5120)
    (tmp_path / "file.part.version").write_text('"other"')
    assert fetch(f"{server}/heedless", tmp_path / "file", "file").read_bytes() == CONTENT


def test_a_range_that_ends_early_is_not_taken_for_the_rest(server: str, tmp_path: Path):
    (tmp_path / "file.part").write_bytes(CONTENT[:5120])
    with pytest.raises(UserError, match="ended after 7680 of 10240 bytes"):
        fetch(f"{server}/short", tmp_path / "file", "file")


def test_a_server_without_ranges_starts_over(server: str, tmp_path: Path):
    (tmp_path / "file.part").write_bytes(b"half")
    assert fetch(f"{server}/plain", tmp_path / "file", "file").read_bytes() == CONTENT


def test_a_range_that_is_not_the_one_asked_for_starts_over(server: str, tmp_path: Path):
    (tmp_path / "file.part").write_bytes(b"half")
    assert fetch(f"{server}/confused", tmp_path / "file", "file").read_bytes() == CONTENT


def test_a_complete_part_only_takes_its_name(server: str, tmp_path: Path):
    (tmp_path / "file.part").write_bytes(CONTENT)
    assert fetch(f"{server}/whole", tmp_path / "file", "file").read_bytes() == CONTENT


def test_a_part_longer_than_the_file_is_thrown_away(server: str, tmp_path: Path):
    (tmp_path / "file.part").write_bytes(CONTENT + b"more")
    assert fetch(f"{server}/whole", tmp_path / "file", "file").read_bytes() == CONTENT


def test_more_bytes_than_announced_are_thrown_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def stream(url: str, part: Path, label: str) -> int:
        return part.write_bytes(CONTENT) - 1

    monkeypatch.setattr(download, "_stream", stream)
    with pytest.raises(UserError, match="10240 bytes arrived, 10239 were announced. Run again to start over"):
        fetch("http://unused", tmp_path / "file", "file")
    assert not (tmp_path / "file").exists() and not (tmp_path / "file.part").exists()


def test_of_several_that_want_one_file_one_fetches_it(server: str, tmp_path: Path):
    target = tmp_path / "file"
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: fetch(f"{server}/slow", target, "file").read_bytes(), range(4)))
    assert found == [CONTENT] * 4
    assert Handler.asked == [("/slow", None)]


def test_not_found_and_no_server_name_the_address(server: str, tmp_path: Path):
    with pytest.raises(UserError, match="/missing: the server answers 404"):
        fetch(f"{server}/missing", tmp_path / "file", "file")
    with pytest.raises(UserError, match="127.0.0.1:9/x: .*refused"):
        fetch("http://127.0.0.1:9/x", tmp_path / "file", "file")
    assert not (tmp_path / "file").exists()
