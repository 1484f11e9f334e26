"""Published accuracies to compare with; the numbers and their sources are in anchors.toml."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from fractions import Fraction
from importlib import resources


@dataclass(frozen=True)
class Anchor:
    """clean, certified: in percent of the test set."""

    method: str
    clean: float
    certified: float
    source: str


def anchors(dataset: str, eps: str) -> list[Anchor]:
    """What is published for a data set and an l_inf radius (as a recipe writes it); empty if nothing is."""
    content = tomllib.loads((resources.files("adcert") / "anchors.toml").read_text(encoding="utf-8"))
    return [
        Anchor(method, clean, certified, source["name"])
        for source in content["sources"]
        for benchmark, methods in source["results"].items()
        if _is(benchmark, dataset, eps)
        for method, (clean, certified) in methods.items()
    ]


def _is(benchmark: str, dataset: str, eps: str) -> bool:
    name, radius = benchmark.split()
    return name == dataset and Fraction(radius) == Fraction(eps)
