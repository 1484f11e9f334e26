"""What the pages tell readers to type works, and so does what it is said to print."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from support.page_runner import Reader
from support.pages import DOCS, LANGUAGES, PAGES, ROOT, blocks, headings, identity, section

CONTRIBUTING = DOCS / "contributing.md"
GENERATED = DOCS / "api.md"
CHANGES = {"write", "append", "change"}
PARTS = ("adcert", "verify", "docs", "exported", "benchmarks", "tests", "cli.py", "pyproject.toml", "README.md")


@pytest.mark.parametrize("page", PAGES, ids=identity)
def test_every_block_says_what_it_is(page: Path) -> None:
    assert {block.language for block in blocks(page)} <= LANGUAGES
    assert page == GENERATED or headings(page)


@pytest.mark.usefixtures("little_data")
@pytest.mark.parametrize("page", sorted({*PAGES} - {CONTRIBUTING, GENERATED}), ids=identity)
def test_a_page_can_be_followed(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "checkout"
    folder.mkdir()
    for part in PARTS:
        (folder / part).symlink_to(ROOT / part)
    monkeypatch.chdir(folder)
    reader = Reader(folder)
    for block in blocks(page):
        reader.carry_out(block)


def recipes() -> list[str]:
    """Sections of the contributors' page that change the source."""
    changing = [block.line for block in blocks(CONTRIBUTING) if block.marker in CHANGES]
    parts = {heading: section(CONTRIBUTING, heading) for heading in headings(CONTRIBUTING)[1:]}
    return [heading for heading, lines in parts.items() if not {*lines}.isdisjoint(changing)]


@pytest.mark.usefixtures("little_data")
@pytest.mark.parametrize("recipe", recipes())
def test_a_recipe_for_contributors_works(recipe: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "checkout"
    folder.mkdir()
    for part in PARTS:
        source = ROOT / part
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(source, folder / part, ignore=ignored) if source.is_dir() else shutil.copy(source, folder)
    monkeypatch.chdir(folder)
    reader = Reader(folder, processes=True)
    for block in blocks(CONTRIBUTING):
        if block.line in section(CONTRIBUTING, recipe):
            reader.carry_out(block)


def test_there_is_a_recipe_for_each_kind_of_contribution() -> None:
    assert {"Add an operator", "Add an objective", "Add a data set"} <= set(recipes())
