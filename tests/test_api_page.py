"""docs/api.md is what docs/make_api.py makes of the docstrings."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

ROOT = Path(__file__).parent.parent


def test_the_page_is_up_to_date() -> None:
    spec = importlib.util.spec_from_file_location("make_api", ROOT / "docs" / "make_api.py")
    assert spec
    assert spec.loader
    make_api = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(make_api)
    assert make_api.page() == make_api.PAGE.read_text(encoding="utf-8"), "run: python docs/make_api.py"


def test_every_link_of_the_page_has_its_heading() -> None:
    text = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
    anchors = {
        re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in re.findall(r"^#+ (.*)$", text, re.M)
    }
    links = set(re.findall(r"\]\(#([^)]*)\)", text))
    assert links
    assert links <= anchors
