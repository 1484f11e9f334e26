"""The page: what was found, what it means and what not, several results side by side, one file without references."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path

from verify.model.onnx_file import OnnxFile
from verify.report import sections
from verify.report.charts import patterns
from verify.report.markup import Html, tag
from verify.report.pictures import Pictures
from verify.report.results import Outcome, Result
from verify.report.wording import EXCLUDED, PROVED, count, data_of, percent, perturbation, radius

_HERE = Path(__file__).parent
_STYLE = (_HERE / "report.css").read_text(encoding="utf-8")
_SCRIPT = (_HERE / "report.js").read_text(encoding="utf-8")


def page(results: Sequence[Result], models: Sequence[OnnxFile | None], pictures: Sequence[Pictures]) -> str:
    """The report on results, each with its model, if that is at hand, and its pictures."""
    parts = list(zip(results, models, pictures, strict=True))
    if len(parts) == 1:
        body = tag(
            "main",
            sections.headline(results[0], "h1"),
            _meaning(results),
            *sections.details(*parts[0], number=1, heading="h2"),
        )
        title = f"{sections.finding(results[0])}: {results[0].model_name}"
    else:
        articles = [
            tag(
                "article",
                sections.headline(part[0], "h2"),
                *sections.details(*part, number=number, heading="h3"),
                id=f"result-{number}",
            )
            for number, part in enumerate(parts, start=1)
        ]
        title = f"{len(parts)} robustness results compared"
        body = tag("main", _comparison(results, title), _meaning(results), *articles)
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", http_equiv="Content-Security-Policy", content=_policy()),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="color-scheme", content="light dark"),
        tag("title", title),
        tag("style", Html(_STYLE)),
    )
    footer = tag("footer", tag("p", "Made by adcert from the result files named above. This page loads nothing else."))
    document = tag("html", head, tag("body", patterns(), body, footer, tag("script", Html(_SCRIPT))), lang="en")
    return f"<!doctype html>\n{document}\n"


def _policy() -> str:
    """Whatever slipped into the page, a browser would run nothing but this style and script, and load nothing."""

    def allowed(content: str) -> str:
        return f"'sha256-{base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()}'"

    return (
        f"default-src 'none'; img-src data:; style-src {allowed(_STYLE)}; script-src {allowed(_SCRIPT)}; "
        "base-uri 'none'; form-action 'none'"
    )


def _comparison(results: Sequence[Result], title: str) -> Html:
    shared, own = _in_common(results)
    rows = [
        [
            tag("a", name, href=f"#result-{number}"),
            count(len(result.samples)),
            percent(result.correct, len(result.samples)),
            sections.attacked(result),
            sections.certified(result),
            count(result.counts[Outcome.UNDECIDED]),
            sections.total_time(result),
        ]
        for number, (result, name) in enumerate(zip(results, own, strict=True), start=1)
    ]
    numbers = ["samples", "clean", "attacked", "certified", "undecided", "time"]
    return tag(
        "header",
        tag("p", "Robustness report", class_="kicker"),
        tag("h1", title),
        tag("p", f"In common: {shared}.", class_="lede") if shared else None,
        sections.table(["result"], numbers, rows, "The results side by side; each is set out below"),
        *_curves(results),
    )


def _in_common(results: Sequence[Result]) -> tuple[str, list[str]]:
    """What was asked in all results alike, and what tells each from the others."""
    hashes = {(result.model_name, result.model_sha256) for result in results}
    ambiguous = len({name for name, _ in hashes}) < len(hashes)
    facts = [
        (
            f"{result.model_name} ({result.model_sha256[:8]})" if ambiguous else result.model_name,
            data_of(result),
            radius(result),
            result.contract,
            result.method,
        )
        for result in results
    ]
    alike = [len(set(column)) == 1 for column in zip(*facts, strict=True)]
    shared = ", ".join(fact for fact, same in zip(facts[0], alike, strict=True) if same)
    own = [", ".join(fact for fact, same in zip(row, alike, strict=True) if not same) for row in facts]
    return shared, [name or result.name for name, result in zip(own, results, strict=True)]


def _curves(results: Sequence[Result]) -> list[Html]:
    """A chart for each model, data and contract of which there are results at several eps."""
    ordered = sorted(results, key=lambda result: repr(result.subject))
    charts = []
    for _, group in groupby(ordered, key=lambda result: result.subject):
        same = list(group)
        first = same[0]
        if len({result.eps for result in same}) > 1 and first.samples:
            about = f"{count(len(first.samples), f'{data_of(first)} sample')}, contract {first.contract}."
            heading = tag("h2", f"Accuracy against ε: {first.model_name}")
            charts.append(tag("section", heading, tag("p", about, class_="note"), sections.curve(same)))
    return charts


def _meaning(results: Sequence[Result]) -> Html:
    proving = [result for result in results if result.proves]
    proved: list[Html] = []
    excluded: list[Html] = []
    for contract in dict.fromkeys(result.contract for result in proving):
        mine = [result for result in proving if result.contract == contract]
        boxes = {perturbation(result) for result in mine}
        box = f" ({boxes.pop()})" if len(boxes) == 1 else " of its result"
        statement = PROVED.get(contract, "is answered as that contract says, which this program does not know.")
        proved.append(
            tag(
                "p",
                "Contract ",
                tag("code", contract),
                f". For each certified sample: every input within the perturbation{box} {statement}",
                class_="statement",
            )
        )
        if contract in EXCLUDED:
            excluded.append(tag("li", EXCLUDED[contract]))
    if not proving:
        proved.append(tag("p", "Nothing: the result is of an attack, which can refute and cannot prove."))
    excluded += [
        tag("li", "other perturbations: rotations, blur, another norm, a larger ε"),
        tag("li", "other samples: the percentages are of those that were looked at, and promise nothing of new ones"),
        tag("li", "whether a label is right: what is proved is that the answer equals the label in the data set"),
    ]
    if any(result.counts[Outcome.UNDECIDED] for result in results):
        excluded.append(tag("li", "undecided samples: each may be robust, or not"))
    if any(result.attacked_accuracy is not None for result in results):
        excluded.append(tag("li", "attacks other than the one that was run: it only bounds robustness from above"))
    return tag(
        "section",
        tag("div", tag("h2", "What was proved"), *proved),
        tag("div", tag("h2", "What it does not mean"), tag("p", "It says nothing about"), tag("ul", *excluded)),
        class_="meaning",
    )
