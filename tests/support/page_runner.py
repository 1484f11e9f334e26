"""Carry out the code blocks of a page, as a reader would who copies and pastes them."""

from __future__ import annotations

import glob
import gzip
import os
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import click

from support.command_line import adcert_in_process
from support.pages import ROOT, Block
from verify import datasets

SMALL_TRAINING = ("epochs=2", "lr_milestones=[]", "ramp_end=1", "evaluation_steps=1", "swa_start=0")
"""Overrides that every `train` command gets. None of what depends on the data: there a page must be right by itself."""

_EXIT_CODE = re.compile(r"#.*\bexit code (\d+)")
_SHELL = {"ls", "cat", "mkdir", "cp", "gunzip"}
"""What a page may run besides adcert and Python."""

Command = tuple[list[str], int]
"""Its words, and the exit code that the page announces in a comment, else 0."""


def commands_of(text: str) -> Iterator[Command]:
    for line in text.replace("\\\n", " ").splitlines():
        words = shlex.split(line, comments=True)
        code = _EXIT_CODE.search(line)
        if words:
            yield words, int(code[1]) if code else 0


def adcert_arguments(words: Sequence[str]) -> list[str] | None:
    """What follows `adcert` or `python cli.py`, if the command is that."""
    for prefix in (["adcert"], ["python", "cli.py"]):
        if list(words[: len(prefix)]) == prefix:
            return list(words[len(prefix) :])
    return None


def require_valid(words: Sequence[str]) -> None:
    """Raise unless the command and its options exist; nothing is run."""
    arguments = adcert_arguments(words)
    if arguments is not None:
        _require_known_options(arguments)
    elif words[0] == "torchrun":
        _require_known_options(list(words[words.index("cli.py") + 1 :]))
    elif words[0] == "make":
        targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
        assert {word for word in words[1:] if "=" not in word} <= set(targets), f"the Makefile has no {words[1:]}"
    elif "pip" in words[:3]:
        extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
        named = {extra for word in words for part in re.findall(r"\[([\w,]+)\]", word) for extra in part.split(",")}
        assert named <= set(extras), f"there is no extra {named - set(extras)}"
    elif words[0] in ("python", "PYTHONPATH=.:tests"):
        scripts = [word for word in words if word.endswith(".py")]
        assert all((ROOT / script).exists() for script in scripts), f"there is no {scripts}"
    else:
        assert words[0] in {"git", "cd", "source"} | _SHELL, f"{words[0]}: what is that?"


def _require_known_options(arguments: list[str]) -> None:
    import cli

    if arguments[0].startswith("-"):
        cli.commands.make_context("adcert", arguments, resilient_parsing=True)
        return
    command = cli.commands.get_command(click.Context(cli.commands), arguments[0])
    assert command, f"there is no command {arguments[0]}"
    command.make_context(arguments[0], arguments[1:])


class Reader:
    """Somebody in `folder` who carries out blocks, and remembers what was printed and defined.

    processes: run adcert in processes of its own, for a folder whose code is not that of this process.
    """

    def __init__(self, folder: Path, *, processes: bool = False) -> None:
        self._folder = folder
        self._processes = processes
        self._printed = ""
        self._namespace: dict[str, Any] = {"__name__": "page"}

    def carry_out(self, block: Block) -> None:
        match block.marker, block.language:
            case "parse", "sh":
                for words, _ in commands_of(block.text):
                    require_valid(words)
            case "write", language:
                if language == "yaml":  # a CI job
                    for found in re.findall(r"\badcert (?:[^\n\\]|\\\n)*", block.text):
                        require_valid(shlex.split(found.replace("\\\n", " ")))
                self._write(block, block.text)
            case "append", _:
                self._write(block, f"{self._path(block).read_text()}\n\n{block.text}")
            case "change", "diff":
                self._write(block, changed(self._path(block).read_text(), block.text))
            case "output", _:
                assert matches(block.text, self._printed), f"{block}: this was printed:\n{self._printed}"
            case None, "sh":
                self._printed = ""
                for words, code in commands_of(block.text):
                    self._run(words, code, block)
            case None, "python" if self._processes:
                self._run(["python", "-c", block.text], 0, block)
            case None, "python":
                exec(compile("\n" * (block.line - 1) + block.text, str(block.page), "exec"), self._namespace)
            case None, "toml":
                tomllib.loads(block.text)
            case None, "json" | "text" | "yaml" | "diff":
                pass
            case _:
                raise AssertionError(f"{block}: {block.marker} of {block.language} means nothing")

    def _path(self, block: Block) -> Path:
        assert block.file, f"{block} names no file"
        return self._folder / block.file

    def _write(self, block: Block, text: str) -> None:
        path = self._path(block)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")

    def _run(self, words: list[str], code: int, block: Block) -> None:
        words = [name for word in words for name in (sorted(glob.glob(word)) if "*" in word else [word])]
        arguments = adcert_arguments(words)
        if arguments is not None and arguments[0] == "train" and "--resume" not in arguments:
            arguments += [word for setting in SMALL_TRAINING for word in ("--set", setting)]
        if arguments is not None and not self._processes:
            done = adcert_in_process(*arguments)
        else:
            if arguments is not None:
                words = ["python", "cli.py", *arguments]
            assert words[0] in {"python"} | _SHELL, f"{block}: {words[0]} is not for tests"
            if words[0] == "python":
                words = [sys.executable, *words[1:]]
            environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST")}
            done = subprocess.run(words, capture_output=True, text=True, check=False, env=environment)
        self._printed += done.stdout + done.stderr
        assert done.returncode == code, f"{block}: {shlex.join(words)}\n{done.stdout}{done.stderr}"


def changed(text: str, diff: str) -> str:
    """The text with the diff applied; its lines before must be found exactly once."""
    lines = diff.splitlines(keepends=True)
    before = "".join(line[1:] for line in lines if line[0] in " -")
    after = "".join(line[1:] for line in lines if line[0] in " +")
    assert text.count(before) == 1, f"found {text.count(before)} times:\n{before}"
    return text.replace(before, after)


def matches(expected: str, printed: str) -> bool:
    """Whether the lines of `expected` follow each other in what was printed; `...` stands for anything within a line,
    or for any lines."""
    pattern = r"\s+".join(map(re.escape, expected.split())).replace(re.escape("..."), r".*?")
    return re.search(pattern, " ".join(printed.split()), re.DOTALL) is not None


def few_images(folder: Path, *names: str, training: int = 1200, test: int = 100) -> None:
    """`names` as data sets in the form of MNIST, of its first images, for ADCERT_DATA."""
    for name in names:
        (folder / name).mkdir(parents=True)
        for split, count in (("train", training), ("t10k", test)):
            for kind, header, size in (("images-idx3", 16, 28 * 28), ("labels-idx1", 8, 1)):
                file = f"{split}-{kind}-ubyte.gz"
                whole = gzip.decompress((Path(datasets.__file__).parent / "mnist" / file).read_bytes())
                few = whole[:4] + count.to_bytes(4, "big") + whole[8 : header + count * size]
                (folder / name / file).write_bytes(gzip.compress(few, 1))
