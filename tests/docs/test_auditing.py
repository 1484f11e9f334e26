"""The page for those who audit the checker names every file that it runs, and no other."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from support.pages import DOCS, ROOT, links

PROGRAM = """
import sys, verify.check
print(*(m.__file__ for name, m in sys.modules.items() if name.startswith("verify.")), sep="\\n")
"""


def test_the_page_names_what_the_checker_imports() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], cwd=ROOT, capture_output=True, text=True, check=True)
    imported = {Path(line).resolve() for line in done.stdout.split()}
    named = {(DOCS / link).resolve() for link in links(DOCS / "auditing.md") if link.endswith(".py")}
    assert named == imported
