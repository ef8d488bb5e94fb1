"""Fetching raw files: resumed, size-checked, and in place only when complete."""

import http.client
import os
import urllib.error
import urllib.request
from email.message import Message
from pathlib import Path

from filelock import FileLock

from sid.errors import UserError

CHUNK_BYTES = 1 << 20
TIMEOUT_SECONDS = 30.0
AGENT = {"User-Agent": "sidlight"}  # Zenodo refuses Python's own


def fetch(url: str, target: Path, label: str) -> Path:
    """Download `url` to `target` with a progress bar; do nothing if `target` exists.

    Of several processes that want one file, one fetches it and the others wait.

    The bytes go to `<target>.part`, from which a later call goes on with a Range request, if the server's file is still
    the one of `<target>.part.version`. The file takes its name only when it has the size that the server announced.

    Returns:
        target.

    Raises:
        UserError: no connection, an HTTP error, or a size that is not the announced one.
    """
    if target.exists():
        return target
    part = target.with_name(target.name + ".part")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(target.with_name(f".{target.name}.lock")):
            if not target.exists():
                _complete(url, part, label)
                os.replace(part, target)
                _version_file(part).unlink(missing_ok=True)
    except urllib.error.HTTPError as error:
        raise UserError(f"{url}: the server answers {error.code} {error.reason}.") from error
    except (OSError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", error)
        kept = f" What has arrived is kept in {part}; run again to go on." if part.exists() else ""
        raise UserError(f"{url}: {reason}.{kept}") from error
    return target


def _complete(url: str, part: Path, label: str) -> None:
    expected = _stream(url, part, label)
    size = part.stat().st_size
    if expected is not None and size < expected:
        raise UserError(f"{url}: the connection ended after {size} of {expected} bytes. Run again to go on.")
    if expected is not None and size > expected:
        part.unlink()
        raise UserError(f"{url}: {size} bytes arrived, {expected} were announced. Run again to start over.")


def _stream(url: str, part: Path, label: str) -> int | None:
    """Append what is missing of `url` to `part`; return the announced full size, None if the server gives none."""
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

    have = part.stat().st_size if part.exists() else 0
    wanted = {"Range": f"bytes={have}-"} if have else {}
    if have and _version_file(part).exists():
        wanted["If-Range"] = _version_file(part).read_text()
    request = urllib.request.Request(url, headers=AGENT | wanted)
    try:
        response = urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS)
    except urllib.error.HTTPError as error:
        if error.code != 416 or not have:
            raise
        total = error.headers.get("Content-Range", "").rpartition("/")[2]
        if total == str(have):
            return have
        part.unlink()
        return _stream(url, part, label)
    with response:
        resumed = response.status == 206
        asked = response.headers.get("Content-Range", "").startswith(f"bytes {have}-")
        other = _version(response.headers) not in ("", wanted.get("If-Range", _version(response.headers)))
        if resumed and (other or not asked):
            part.unlink()
            return _stream(url, part, label)
        have = have if resumed else 0
        expected = _announced(response.headers, have)
        if not resumed:
            _note_version(response.headers, part)
        console = Console(stderr=True)
        columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
        with (
            open(part, "ab" if resumed else "wb") as file,
            Progress(*columns, console=console, disable=not console.is_terminal) as progress,
        ):
            task = progress.add_task(label, total=expected, completed=have)
            while chunk := response.read1(CHUNK_BYTES):
                file.write(chunk)
                progress.advance(task, len(chunk))
    return expected


def _announced(headers: Message, have: int) -> int | None:
    """The full size that a server announces for what follows `have` bytes; None if it does not."""
    total = headers.get("Content-Range", "").rpartition("/")[2]
    length = headers.get("Content-Length", "")
    if total.isdecimal():
        return int(total)
    return have + int(length) if length.isdecimal() else None


def _version_file(part: Path) -> Path:
    return part.with_name(part.name + ".version")


def _version(headers: Message) -> str:
    """What tells this version of the server's file from others (RFC 9110, 13.1.5); "": nothing does."""
    tag = headers.get("ETag", "W/")
    return headers.get("Last-Modified", "") if tag.startswith("W/") else tag


def _note_version(headers: Message, part: Path) -> None:
    if version := _version(headers):
        _version_file(part).write_text(version)
    else:
        _version_file(part).unlink(missing_ok=True)
