"""Folders that are whole or absent, whatever happens while they are filled; hashes."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from verify.errors import FileProblem


@contextlib.contextmanager
def staged_folder(path: Path) -> Iterator[Path]:
    """A folder to fill, which becomes `path` in one step at the end; raises FileProblem if `path` exists by then."""
    staging = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        staging.mkdir(parents=True)
        yield staging
        staging.rename(path)
    except OSError as error:
        raise FileProblem(f"cannot create {path}: {error.strerror or error}") from None
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
