"""Links between pages lead somewhere, and every page is found from the index."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from support.pages import DOCS, PAGES, ROOT, anchors, blocks, identity, links, prose

LONGEST = 120
GENERATED = DOCS / "api.md"


@pytest.mark.parametrize("page", PAGES, ids=identity)
def test_links_lead_somewhere(page: Path) -> None:
    for link in links(page):
        if link.startswith(("http://", "https://")):
            continue
        file, _, anchor = link.partition("#")
        target = (page.parent / file).resolve() if file else page
        assert target.exists(), f"{page.name}: {link}"
        assert target.is_relative_to(ROOT)
        if anchor:
            assert anchor in anchors(target), f"{page.name}: {link}"


@pytest.mark.parametrize("page", PAGES, ids=identity)
def test_references_are_defined_and_used(page: Path) -> None:
    text = "\n".join(prose(page))
    assert set(re.findall(r"\]\[([\w-]+)\]", text)) == set(re.findall(r"^\[([\w-]+)\]: ", text, re.MULTILINE))


def test_the_index_lists_every_page() -> None:
    index = {link.partition("#")[0] for link in links(DOCS / "README.md")}
    assert {page.name for page in DOCS.glob("*.md")} - {"README.md"} <= index
    assert "docs/README.md" in set(links(ROOT / "README.md"))


@pytest.mark.parametrize("page", sorted({*PAGES} - {GENERATED}), ids=identity)
def test_lines_fit(page: Path) -> None:
    lines = page.read_text(encoding="utf-8").splitlines()
    long = [line for line in lines if len(line) > LONGEST and not line.startswith("|")]
    assert not long


def test_the_readme_is_short() -> None:
    """Three minutes at 200 words a minute, tables and code included."""
    page = ROOT / "README.md"
    words = len(page.read_text(encoding="utf-8").split())
    assert words <= 900
    assert sum(len(block.text.splitlines()) for block in blocks(page)) <= 40
