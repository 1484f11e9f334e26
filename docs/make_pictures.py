"""Make docs/report.png, the picture at the head of the README: `python docs/make_pictures.py`.

It shows parts of the report on a model that ships, side by side. Needs the extra `browser`, and a Chromium.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from playwright.sync_api import sync_playwright

ROOT = Path(__file__).parent.parent
PICTURE = ROOT / "docs" / "report.png"
MODEL = ROOT / "exported" / "mnist-0.1-small.onnx"
OPTIONS = ("--method", "crown", "--attack", "--curve", "0.02,0.05,0.12,0.15", "--quiet")

# Times differ from run to run, so that what tells them is left out.
STYLE = """
  main { max-width: none; padding: 2rem; display: grid; grid: auto 1fr / 1fr 1fr; gap: 0 3rem; }
  h1 { font-size: 2.5rem; }
  .figures { margin: 1.2rem 0; }
  .figures b { font-size: 1.4rem; }
  section { margin: 0; padding: 0; border: 0; }
  main > header { margin-bottom: 2rem; }
  section.pictures { grid-area: 1 / 2 / 3 / 3; }
  section:not(.shown), .shown > p:not(.note), .shown > .scroll, .timed, .filters { display: none !important; }
  .cards { grid-template-columns: repeat(7, 1fr); }
  .cards > :nth-child(n + 23) { display: none; }
"""
ARRANGE = """() => {
  for (const section of document.querySelectorAll("section")) {
    const title = section.querySelector("h2").textContent;
    section.classList.toggle("shown", title.startsWith("Accuracy") || title == "Pictures");
    section.classList.toggle("pictures", title == "Pictures");
  }
  for (const fact of document.querySelectorAll(".card .facts > div")) {
    fact.classList.toggle("timed", fact.textContent.startsWith("time"));
  }
  for (const image of document.images) image.loading = "eager";
  document.querySelector(".card.counterexample").open = true;
}"""


def make(picture: Path, *, samples: int) -> None:
    """Verify the model on the first samples of the test set, and write the picture of the report on them."""
    system = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as started:
        report = Path(folder) / "report.html"
        command = [sys.executable, "cli.py", "verify", str(MODEL.relative_to(ROOT)), "--count", str(samples)]
        subprocess.run([*command, *OPTIONS, "--report", str(report)], cwd=ROOT, check=True)
        browser = started.chromium.launch(executable_path=system)
        page = browser.new_page(viewport={"width": 1280, "height": 700}, color_scheme="light", bypass_csp=True)
        page.goto(report.as_uri())
        page.evaluate(ARRANGE)
        page.add_style_tag(content=STYLE)
        page.evaluate("Promise.all([...document.images].map((image) => image.decode()))")
        page.locator("main").screenshot(path=picture)
        browser.close()


if __name__ == "__main__":
    make(PICTURE, samples=200)
