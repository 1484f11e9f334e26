"""Folders that are whole or absent, whatever happens while they are filled; files that ship; hashes."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
from collections.abc import Iterator
from importlib import resources
from pathlib import Path

from verify.errors import FileProblem, Problem


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


def names_in(folder: str) -> list[str]:
    """The TOML files that ship in `folder` of the package, by name."""
    entries = (resources.files("adcert") / folder).iterdir()
    return sorted(entry.name.removesuffix(".toml") for entry in entries if entry.name.endswith(".toml"))


def read_named(folder: str, name: str, kind: str, problem: type[Problem]) -> str:
    """The text of TOML file `name`, or of the one that ships under that name in `folder`; raises `problem`."""
    path = Path(name)
    try:
        if path.suffix == ".toml" or path.is_file():
            return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise problem(f"cannot read the {kind} {name}: {error}") from None
    names = names_in(folder)
    if name not in names:
        raise problem(f"there is no {kind} {name!r}; there are {', '.join(names)}, and any TOML file")
    return (resources.files("adcert") / folder / f"{name}.toml").read_text(encoding="utf-8")


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
