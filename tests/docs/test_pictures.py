"""The picture in the README is made by a script, which needs Playwright for Python and a Chromium."""

from __future__ import annotations

import importlib.util
import struct
from pathlib import Path

import pytest

from support.pages import DOCS

playwright = pytest.importorskip("playwright.sync_api", reason="Playwright for Python is not installed")


def size(picture: Path) -> tuple[int, int]:
    """Of a PNG file, in pixels."""
    content = picture.read_bytes()
    assert content.startswith(b"\x89PNG\r\n\x1a\n")
    width, height = struct.unpack(">2I", content[16:24])
    return width, height


def test_the_script_makes_a_picture_like_the_one_that_is_shown(tmp_path: Path) -> None:
    spec = importlib.util.spec_from_file_location("make_pictures", DOCS / "make_pictures.py")
    assert spec
    assert spec.loader
    make_pictures = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(make_pictures)
    try:
        make_pictures.make(tmp_path / "report.png", samples=20)
    except playwright.Error as error:
        pytest.skip(f"no Chromium can be started: {str(error).splitlines()[0]}")
    (width, height), (shown_width, shown_height) = size(tmp_path / "report.png"), size(make_pictures.PICTURE)
    assert width == shown_width
    assert height == pytest.approx(shown_height, rel=0.2)  # fonts differ, and there are fewer pictures
