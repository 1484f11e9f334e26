"""The parts of a page that are about one result."""

from __future__ import annotations

import base64
import gzip
import json
import statistics
from collections import Counter
from collections.abc import Sequence

from verify.datasets import CLASS_NAMES
from verify.model.onnx_file import OnnxFile
from verify.report.charts import Series, accuracy_over_eps, margins, shares
from verify.report.gallery import definitions, gallery, named
from verify.report.markup import Html, join, tag
from verify.report.pictures import Pictures
from verify.report.results import Outcome, Point, Result, Sample
from verify.report.wording import PROVED, count, data_of, decimal, percent, perturbation, radius, seconds

_MOST_CLASSES = 20
_METHODS = ("ibp", "crown-ibp", "crown", "alpha-crown", "complete", "attack")
"""From cheap to dear; others follow by name."""


def finding(result: Result) -> str:
    """A result in a few words."""
    if not result.samples:
        return "No sample has a verdict"
    if not result.proves:
        return f"{attacked(result)} withstand attack at {radius(result)}"
    return f"{certified(result)} certified at {radius(result)}"


def certified(result: Result) -> str:
    return percent(result.counts[Outcome.CERTIFIED], len(result.samples)) if result.proves else "not tried"


def attacked(result: Result) -> str:
    return accuracy(result.attacked_accuracy)


def accuracy(percentage: float | None) -> str:
    return "not tried" if percentage is None else f"{percentage:.2f}\N{NO-BREAK SPACE}%"


def total_time(result: Result) -> str:
    return seconds(sum(sample.time_s for sample in result.samples))


def headline(result: Result, heading: str) -> Html:
    """What a reader in a hurry needs to know."""
    total = len(result.samples)
    undecided = result.counts[Outcome.UNDECIDED]
    attack = "no attack was run" if result.attacked_accuracy is None else "withstand the attack that was run"
    figures = [
        ("Clean", percent(result.correct, total), "classified correctly as they are"),
        ("Attacked", attacked(result), attack),
        ("Certified", certified(result), "proved robust"),
        ("Undecided", percent(undecided, total), "neither proved nor refuted"),
    ]
    unfinished = (
        tag("p", f"Unfinished: {count(total)} of {count(result.asked)} samples have a verdict.", class_="warning")
        if total < result.asked
        else None
    )
    return tag(
        "header",
        tag("p", f"Robustness report · {result.model_name}", class_="kicker"),
        tag(heading, finding(result)),
        unfinished,
        tag("p", *_lede(result), class_="lede"),
        tag(
            "dl",
            *(
                tag("div", tag("dt", name), tag("dd", tag("b", value), tag("span", meaning)))
                for name, value, meaning in figures
            ),
            class_="figures",
        ),
        shares(result),
    )


def _lede(result: Result) -> list[str | Html]:
    total, proved = len(result.samples), result.counts[Outcome.CERTIFIED]
    where = count(total, f"{data_of(result)} sample")
    if not total:
        return [f"The run on {data_of(result)} had not settled any sample when this file was written."]
    perturbed = f"perturbation ({perturbation(result)})"
    refuted = result.counts[Outcome.COUNTEREXAMPLE]
    robust = total - result.counts[Outcome.MISCLASSIFIED] - refuted
    if not result.proves:
        return [f"Of {where}, {count(refuted)} changed their class under some {perturbed}. No proof was tried."]
    sentence = (
        f"For {count(proved) if proved else 'none'} of {where} it is proved that no {perturbed} changes the answer"
    )
    arithmetic = ", over the real numbers." if result.contract == "real" else f", under the contract {result.contract}."
    if result.contract not in PROVED or result.contract == "real":
        return [sentence, arithmetic]  # a counterexample is one of float32 arithmetic, and refutes nothing else
    if proved == robust:
        return [sentence, arithmetic, " Every sample is settled."]
    between = f" Truly robust are at least {percent(proved, total)} and at most {percent(robust, total)} of them."
    return [sentence, arithmetic, between]


def details(result: Result, model: OnnxFile | None, pictures: Pictures, *, number: int, heading: str) -> list[Html]:
    """Everything behind the headline."""
    names = CLASS_NAMES.get(result.data_name)
    parts: list[tuple[str, Html | None]] = [
        ("Accuracy against ε", _over_eps(result)),
        ("How far from changing", _margins(result)),
        ("How it was settled", _methods(result)),
        ("Class by class", _classes(result, names)),
        ("Mistakes without perturbation", _confusion(result, names)),
        ("Pictures", gallery(result, pictures, names, number)),
        ("What exactly was verified", _facts(result, model)),
        ("Raw data", _raw(result)),
    ]
    return [tag("section", tag(heading, title), part) for title, part in parts if part is not None]


def table(names: Sequence[str], numbers: Sequence[str], rows: Sequence[Sequence[str]], caption: str) -> Html:
    """names: headings of columns of text, the first of which heads its row; numbers: of those that follow them."""
    head = [tag("th", name, scope="col") for name in names]
    head += [tag("th", name, scope="col", class_="number") for name in numbers]
    body = []
    for first, *rest in rows:
        cells = [
            tag("td", cell, class_="number" if place > len(names) - 1 else None)
            for place, cell in enumerate(rest, start=1)
        ]
        body.append(tag("tr", tag("th", first, scope="row"), *cells))
    return scrollable(
        tag("table", tag("caption", caption), tag("thead", tag("tr", *head)), tag("tbody", *body)), caption
    )


def scrollable(content: Html, name: str) -> Html:
    """Content that may be wider than a phone."""
    return tag("div", content, class_="scroll", tabindex=0, role="group", aria_label=name)


def curve(results: Sequence[Result]) -> Html:
    """Accuracies against eps, as a chart and a table, of results on the same model, samples and contract."""
    points = _by_eps(results)
    series = [Series("clean", "clean", tuple((point.eps, point.clean) for point in points))]
    attacks = tuple((point.eps, point.attacked) for point in points if point.attacked is not None)
    if attacks:
        series.append(Series("attacked", "counterexample", attacks))
    rows = []
    for method in dict.fromkeys(result.method for result in results if result.proves):
        mine = _by_eps([result for result in results if result.method == method])
        series.append(
            Series(f"certified, {method}", "certified", tuple((point.eps, point.certified) for point in mine))
        )
        rows += [
            [
                f"ε\N{NO-BREAK SPACE}=\N{NO-BREAK SPACE}{point.eps_text}",
                method,
                accuracy(point.clean),
                accuracy(point.attacked),
                accuracy(point.certified),
                count(point.undecided),
                seconds(point.time_s),
            ]
            for point in mine
        ]
    numbers = ["clean", "attacked", "certified", "undecided", "time"]
    return join(
        accuracy_over_eps(series),
        table(["radius", "method"], numbers, rows, "Accuracy by radius") if rows else None,
    )


def _by_eps(results: Sequence[Result]) -> list[Point]:
    """A point for each eps, in order; where there are several, that of a result which is about this eps."""
    found = {point.eps: point for result in results for point in result.elsewhere}
    found |= {result.eps: result.point for result in results}
    return [found[eps] for eps in sorted(found)]


def _over_eps(result: Result) -> Html | None:
    if not result.elsewhere or not result.samples:
        return None
    return join(
        tag(
            "p",
            "What is certified within a radius is certified within every smaller one, and is not computed again; "
            "times are those that each radius took in addition.",
        ),
        curve([result]),
    )


def _margins(result: Result) -> Html | None:
    chart = margins(result)
    if chart is None:
        return None
    rows = []
    for outcome in Outcome:
        values = sorted(s.margin for s in result.samples if s.outcome is outcome and s.margin is not None)
        if values:
            middle = statistics.median(values)
            rows.append([outcome, count(len(values)), *map(decimal, (values[0], middle, values[-1]))])
    return join(
        tag(
            "p",
            "The margin of a sample is how much larger the label's logit is than the largest other. Over all "
            "perturbations it is at least the bound that is drawn here; right of zero the answer cannot change.",
        ),
        chart,
        table(["outcome"], ["samples", "least", "median", "greatest"], rows, "Lower bounds of margins"),
    )


def _methods(result: Result) -> Html | None:
    if not result.samples:
        return None
    by: dict[str, list[Sample]] = {}
    for sample in result.samples:
        by.setdefault(sample.decided_by or _undecided_name(sample), []).append(sample)
    order = {name: place for place, name in enumerate(_METHODS)}
    rest = {_undecided_name(sample) for sample in result.samples if not sample.decided_by}
    rows = []
    for name in sorted(by, key=lambda name: (name in rest, order.get(name, len(order)), name)):
        times = [sample.time_s for sample in by[name]]
        rows.append(
            [
                name,
                count(len(times)),
                percent(len(times), len(result.samples)),
                seconds(sum(times)),
                seconds(statistics.median(times)),
            ]
        )
    rows.append(["all", count(len(result.samples)), percent(1, 1), total_time(result), ""])
    return join(
        tag("p", "Asked for was ", tag("code", result.method), "; the cheapest method that settles a sample counts."),
        table(["settled by"], ["samples", "share", "time", "median"], rows, "Samples and time by method"),
    )


def _undecided_name(sample: Sample) -> str:
    return f"none ({sample.status})"


def _classes(result: Result, names: tuple[str, ...] | None) -> Html | None:
    if not result.samples:
        return None
    by: dict[int, list[Sample]] = {}
    for sample in result.samples:
        by.setdefault(sample.label, []).append(sample)
    rows: list[tuple[float, int, list[str]]] = []
    for label, mine in by.items():
        found = Counter(sample.outcome for sample in mine)
        cells = [named(label, names), count(len(mine))]
        cells.append(percent(sum(sample.prediction == label for sample in mine), len(mine)))
        cells.append(percent(found[Outcome.CERTIFIED], len(mine)))
        cells += [count(found[outcome]) for outcome in Outcome if outcome is not Outcome.CERTIFIED]
        rows.append((found[Outcome.CERTIFIED] / len(mine), label, cells))
    shown = sorted(rows)[:_MOST_CLASSES]
    left_out = (
        tag("p", f"Shown are the {len(shown)} of {len(rows)} classes of which the smallest share is certified.")
        if len(shown) < len(rows)
        else None
    )
    numbers = ["samples", "clean", "certified", "undecided", "counterexample", "misclassified"]
    ordered = [cells for _, _, cells in sorted(shown, key=lambda row: row[1])]
    return join(left_out, table(["class"], numbers, ordered, "Outcomes by class"))


def _confusion(result: Result, names: tuple[str, ...] | None) -> Html | None:
    """The matrix, or the most frequent mistakes where that would be too wide."""
    pairs = Counter((sample.label, sample.prediction) for sample in result.samples)
    mistakes = {pair: number for pair, number in pairs.items() if pair[0] != pair[1]}
    if not result.samples:
        return None
    if not mistakes:
        return tag("p", "None: every sample is classified correctly as it is.")
    classes = sorted({label for pair in pairs for label in pair})
    if len(classes) > _MOST_CLASSES:
        frequent = sorted(mistakes.items(), key=lambda item: (-item[1], item[0]))[:_MOST_CLASSES]
        rows = [[named(label, names), named(answer, names), count(number)] for (label, answer), number in frequent]
        caption = f"The most frequent mistakes, {len(rows)} of {count(len(mistakes), 'kind')}"
        return table(["label", "answer"], ["samples"], rows, caption)
    most = max(mistakes.values())
    body = []
    for label in classes:
        cells = []
        for answer in classes:
            number = pairs[label, answer]
            tint = "right" if label == answer else f"wrong-{-(-4 * number // most)}" if number else "none"
            cells.append(tag("td", count(number) if number else "·", class_=f"number {tint}"))
        body.append(tag("tr", tag("th", named(label, names), scope="row"), *cells))
    head = [tag("td", "label ↓ answer →")]
    head += [tag("th", named(answer, names), scope="col", class_="number") for answer in classes]
    caption = "Confusion matrix: label by row, answer by column"
    matrix = tag(
        "table", tag("caption", caption), tag("thead", tag("tr", *head)), tag("tbody", *body), class_="confusion"
    )
    return scrollable(matrix, caption)


def _facts(result: Result, model: OnnxFile | None) -> Html:
    facts = [
        ("model file", result.model_path),
        ("model SHA-256", result.model_sha256),
        ("perturbation", perturbation(result)),
        ("contract", result.contract),
        ("method", result.method),
        *result.limits.items(),
        ("data", data_of(result)),
        ("data SHA-256", result.data_sha256 or "not recorded"),
        ("samples", _which(result)),
        ("time", total_time(result)),
        (
            "verified with",
            ", ".join(f"{name} {version}" for name, version in result.versions.items()) or "not recorded",
        ),
    ]
    if model is None:
        missing = tag("p", "The model file with this SHA-256 was not at hand, so what it says of itself is left out.")
        return join(definitions(facts), missing)
    operators = Counter(node.op_type for node in model.nodes)
    own = [
        ("input", "; ".join(f"{value.name}: {_shape(value.shape)}" for value in model.inputs)),
        ("operators", ", ".join(f"{number} {name}" for name, number in sorted(operators.items()))),
        ("parameters", count(sum(constant.size for constant in model.constants.values()))),
        ("opset", str(model.opset)),
    ]
    said = {key.removeprefix("adcert."): value for key, value in sorted(model.metadata.items())}
    recipe = said.pop("recipe", None)
    return join(
        definitions(facts + own),
        tag("details", tag("summary", "What the file says of itself"), definitions(list(said.items())))
        if said
        else None,
        tag("details", tag("summary", "Recipe"), tag("pre", _indented(recipe), tabindex=0)) if recipe else None,
    )


def _which(result: Result) -> str:
    if not result.samples:
        return "none"
    indices = [sample.index for sample in result.samples]
    return f"{count(len(indices))}, from {min(indices)} to {max(indices)}"


def _shape(shape: Sequence[int | None]) -> str:
    return " x ".join("any" if size is None else str(size) for size in shape)


def _indented(text: str) -> str:
    try:
        return json.dumps(json.loads(text), indent=1, ensure_ascii=False)
    except (ValueError, RecursionError):
        return text


def _raw(result: Result) -> Html:
    packed = gzip.compress(result.content, 9, mtime=0)
    address = "data:application/gzip;base64," + base64.b64encode(packed).decode()
    link = tag("a", f"Download {result.name}.gz", href=address, download=f"{result.name}.gz")
    size = f" ({count(len(result.content))} bytes once unpacked; the file is inside this page)"
    return join(
        tag("p", link, size, class_="download"),
        definitions([("SHA-256", result.sha256)]),
    )
