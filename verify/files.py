"""Files that are whole or absent, whatever happens while they are written."""

from __future__ import annotations

import contextlib
import gzip
import io
import os
import zlib
from pathlib import Path

from verify.errors import FileProblem, Problem


def require_writable(*paths: Path | None) -> None:
    """Raise FileProblem, before any work is done, where a file cannot be written later on; as far as that shows."""
    for path in paths:
        if path is None:
            continue
        path = _target(path)
        if is_device(path):
            if not os.access(path, os.W_OK):
                raise FileProblem(f"cannot write {path}: the device does not allow it")
            continue
        if path.is_dir():
            raise FileProblem(f"cannot write {path}: it is a folder")
        if not path.parent.is_dir():
            raise FileProblem(f"cannot write {path}: there is no folder {path.parent}")
        if not os.access(path.parent, os.W_OK):
            raise FileProblem(f"cannot write {path}: the folder {path.parent} does not allow it")


def _target(path: Path) -> Path:
    """Where a link leads to, but for devices and pipes; raises FileProblem where that is nowhere, or a file that
    somebody holds open, who would go on writing to what is replaced."""
    try:
        if is_device(path):
            return path
        steps = [path, *([path.parent / path.readlink()] if path.is_symlink() else [])]
        if any(step.is_symlink() and step.parent.resolve().parts[1:2] == ("proc",) for step in steps):
            raise FileProblem(f"cannot write {path}: it stands for an open file (where stdout is meant, say -)")
        return path.resolve()
    except (OSError, RuntimeError) as error:  # a loop, say
        raise FileProblem(
            f"cannot write {path}: {getattr(error, 'strerror', None) or 'the links lead nowhere'}"
        ) from error


def is_device(path: Path) -> bool:
    """Or a pipe."""
    return path.exists() and not path.is_file() and not path.is_dir()


def require_folder(path: Path | None) -> None:
    """The same for a folder that is made when it is needed."""
    if path is not None and path.exists() and not path.is_dir():
        raise FileProblem(f"{path} is a file, not a folder")


def read_bytes(path: Path) -> bytes:
    """A file's content; raises FileProblem when it cannot be read."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise FileProblem(f"cannot read {path}: {error.strerror or error}") from error


def read_unpacked(path: Path, what: str, problem: type[Problem], *, largest: int = 2**31) -> bytes:
    """The same of a file that gzip may have compressed, unpacked. what: the file is, as messages call it; they are
    raised as that kind of problem. largest: bytes, unpacked."""
    try:
        with path.open("rb") as file:
            content = file.read(largest + 1)
        if content[:2] == b"\x1f\x8b":
            with gzip.GzipFile(fileobj=io.BytesIO(content)) as unpacked:
                content = unpacked.read(largest + 1)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise problem(f"{path} is not a gzip file, or is truncated") from error
    except OSError as error:
        raise problem(f"cannot read the {what} {path}: {error.strerror or error}") from error
    if len(content) > largest:
        raise problem(f"the {what} {path} is larger than {largest >> 20} MiB")
    return content


def write_atomically(path: Path, content: bytes) -> None:
    """Replace `path`, or what it links to, by `content` in one step; a failure leaves what was there. Devices and pipes
    stay what they are, and get the content.

    Raises FileProblem when the folder does not exist or cannot be written, or the disk is full.
    """
    path = _target(path)
    if is_device(path):
        try:
            with path.open("ab") as device:
                device.write(content)
        except OSError as error:
            raise FileProblem(f"cannot write {path}: {error.strerror or error}") from error
        return
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        raise FileProblem(f"cannot write {path}: {error.strerror or error}") from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
