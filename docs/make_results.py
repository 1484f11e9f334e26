"""Measure what ships, and write it into the tables of README.md and docs/results.md: `python docs/make_results.py`.

Every model is verified on the 10,000 test images, which takes some minutes.
"""

from __future__ import annotations

import json
import os
import platform
import re
import textwrap
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import verify

ROOT = Path(__file__).parent.parent
PAGES = (ROOT / "README.md", ROOT / "docs" / "results.md")
BEGIN, END = "<!-- made by docs/make_results.py -->", "<!-- until here -->"


@dataclass(frozen=True)
class Model:
    """One that ships in exported/, how it was made, and by what it is verified."""

    name: str
    made_by: str
    methods: tuple[str, ...]


MODELS = (
    Model("mnist-0.1-small", "AD-CERT, seed 0, 45 minutes on one core", ("ibp", "crown")),
    Model("mnist-0.1-small-int8", "`export --int8` of it", ("ibp", "crown")),
    Model("mnist-0.1-small-teacher", "its PGD-trained teacher", ("ibp",)),
)
HEAD = """| file | made by | clean | certified by `ibp` | by `crown` |
| --- | --- | --- | --- | --- |
"""


@dataclass(frozen=True)
class Finding:
    """A result, and the seconds of processor time that it took, which other work on the machine hardly changes."""

    result: verify.Result
    seconds: float

    def __str__(self) -> str:
        return f"{self.result.summary.certified_accuracy:.2f} % in {self.seconds:.0f} s"


def row(model: Model, findings: Sequence[Finding], folder: str) -> str:
    """Of the table. folder: of the models, from where the page is."""
    clean = f"{findings[0].result.summary.clean_accuracy:.2f} %"
    cells = [f"[{model.name}]({folder}{model.name}.md)", model.made_by, clean, *map(str, findings)]
    return "".join(f"| {cell} " for cell in cells + [""] * (5 - len(cells))) + "|\n"


def found(model: Model, method: str, images: NDArray[Any], labels: NDArray[np.int64]) -> Finding:
    """What verification finds on all images."""
    begun = time.process_time()
    result = verify.verify(ROOT / "exported" / f"{model.name}.onnx", images, labels, method=method)
    return Finding(result, time.process_time() - begun)


def machine(result: verify.Result) -> str:
    """On what, and with what, in a sentence."""
    versions = json.loads(result.to_json())["versions"]
    named = ", ".join(f"{name} {version}" for name, version in versions.items() if name not in ("adcert", "onnx"))
    try:
        cpus = re.findall(r"^model name\s*: (.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    except OSError:
        cpus = [platform.processor()]
    return f"Seconds of processor time on an {cpus[0].replace('(R)', '')}, no GPU, with {named}."


def written(text: str, table: str) -> str:
    """A page with the table between its markers."""
    return re.sub(f"{BEGIN}.*?{END}", lambda _: f"{BEGIN}\n\n{table}\n{END}", text, flags=re.DOTALL)


def main() -> None:
    images, labels = verify.load_data("mnist")
    findings = {model: [found(model, method, images, labels) for method in model.methods] for model in MODELS}
    for page in PAGES:
        folder = os.path.relpath(ROOT / "exported", page.parent) + "/"
        table = HEAD + "".join(row(model, results, folder) for model, results in findings.items())
        told = textwrap.fill(machine(findings[MODELS[0]][0].result), width=120)
        page.write_text(written(page.read_text(encoding="utf-8"), f"{table}\n{told}\n"), encoding="utf-8")


if __name__ == "__main__":
    main()
