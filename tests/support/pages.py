"""The pages of the documentation as data: code blocks with their markers, links, headings.

A marker is an HTML comment on the line before a block, `<!-- test: WORD [FILE] -->`:

    parse        the commands take long or need a network: their options are checked, and nothing is run
    write FILE   the block is the content of FILE
    append FILE  the block belongs at the end of FILE
    change FILE  the block is a diff of FILE
    output       the block is what the commands before it print, with `...` for what differs from run to run

Without one, shell and Python blocks are run, in order, in one folder for each page.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", *sorted(DOCS.glob("*.md"))]
LANGUAGES = {"sh", "python", "toml", "json", "yaml", "diff", "text"}

_FENCE = re.compile(r"^ *```(\S*)\s*$")
_MARKER = re.compile(r"^ *<!-- test: (\w+)(?: (\S+))? -->$")
_LINK = re.compile(r"(?<!\\)\[[^\]]*\]\(([^)\s]+)\)")


@dataclass(frozen=True)
class Block:
    """A fenced code block. line: where its text begins. marker, file: of the comment before it, if there is one."""

    page: Path
    line: int
    language: str
    text: str
    marker: str | None
    file: str | None

    def __str__(self) -> str:
        return f"{self.page.name}:{self.line}"


def blocks(page: Path) -> list[Block]:
    found: list[Block] = []
    marker: re.Match[str] | None = None
    opened: tuple[str, int] | None = None
    lines: list[str] = []
    for number, line in enumerate(page.read_text(encoding="utf-8").splitlines(), start=1):
        fence = _FENCE.match(line)
        if opened is None:
            if fence:
                opened, lines = (fence[1], number + 1), []
            elif line.strip():
                marker = _MARKER.match(line)
        elif fence and not fence[1]:
            word, file = (marker[1], marker[2]) if marker else (None, None)
            found.append(Block(page, opened[1], opened[0], "\n".join(lines) + "\n", word, file))
            marker = opened = None
        else:
            lines.append(line)
    assert opened is None, f"{page.name} ends within a code block"
    return found


def prose(page: Path) -> list[str]:
    """The lines outside of code blocks."""
    lines, inside = [], False
    for line in page.read_text(encoding="utf-8").splitlines():
        if _FENCE.match(line):
            inside = not inside
        elif not inside:
            lines.append(line)
    return lines


def identity(page: Path) -> str:
    """What a test calls a page."""
    return str(page.relative_to(ROOT))


def headings(page: Path) -> list[str]:
    return [line.lstrip("#").strip() for line in prose(page) if re.match(r"#+ ", line)]


def anchors(page: Path) -> set[str]:
    """What a link may name behind `#`: headings in lower case, without punctuation, hyphens for spaces."""
    plain = (re.sub(r"[^\w\- ]", "", heading.lower()) for heading in headings(page))
    return {heading.replace(" ", "-") for heading in plain}


def links(page: Path) -> Iterator[str]:
    for line in prose(page):
        for match in _LINK.finditer(re.sub(r"`[^`]*`", "", line)):
            yield match[1]


def section(page: Path, heading: str) -> range:
    """The numbers of the lines from a heading up to the next one of the same or a higher level."""
    lines = page.read_text(encoding="utf-8").splitlines()
    begin = next(number for number, line in enumerate(lines, 1) if re.fullmatch(rf"#+ {re.escape(heading)}", line))
    level = lines[begin - 1].index(" ")
    inside = False
    for number, line in enumerate(lines[begin:], begin + 1):
        inside ^= bool(_FENCE.match(line))
        if not inside and re.match(rf"#{{1,{level}}} ", line):
            return range(begin, number)
    return range(begin, len(lines) + 1)


def section_text(page: Path, heading: str) -> str:
    lines = page.read_text(encoding="utf-8").splitlines()
    return "\n".join(lines[number - 1] for number in section(page, heading))
