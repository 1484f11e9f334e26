"""The pictures of a result, which open where they are and can be filtered."""

from __future__ import annotations

from verify.report.charts import swatch
from verify.report.markup import Html, join, tag
from verify.report.pictures import Picture, Pictures
from verify.report.results import Outcome, Result
from verify.report.wording import count, counted, decimal, seconds


def gallery(result: Result, pictures: Pictures, names: tuple[str, ...] | None, number: int) -> Html:
    """number: of the result in its page."""
    if pictures.absence is not None:
        return tag("p", f"There are no pictures here: {pictures.absence}.")
    if not pictures.shown:
        return tag("p", "No sample has a verdict yet, so there is nothing to show.")
    outcomes = [outcome for outcome in Outcome if result.counts[outcome]]
    cards = [_card(picture, result, names, pictures.size, number) for picture in pictures.shown]
    return join(
        tag("p", _selection(result, pictures), " Select a picture to open it."),
        _filters(outcomes, pictures, names),
        tag("div", *cards, class_="cards"),
    )


def named(label: int, names: tuple[str, ...] | None) -> str:
    """A class as people call it, or its number."""
    return names[label] if names and 0 <= label < len(names) else f"class {label}"


def _selection(result: Result, pictures: Pictures) -> str:
    said = []
    for outcome in Outcome:
        shown = sum(picture.sample.outcome is outcome for picture in pictures.shown)
        total = result.counts[outcome]
        if total:
            part = f"{count(shown)} of" if shown < total else "all" if total > 1 else "the"
            said.append(f"{part} {counted(total, outcome)}")
    rest = ": of each kind those whose margin is closest to zero" if len(pictures.shown) < len(result.samples) else ""
    return f"Shown are {', '.join(said)}{rest}."


def _filters(outcomes: list[Outcome], pictures: Pictures, names: tuple[str, ...] | None) -> Html:
    """Hidden until the script that serves them runs."""
    buttons = [tag("button", "all", type="button", aria_pressed="true", data_outcome="")]
    buttons += [
        tag("button", swatch(outcome), f" {outcome}", type="button", aria_pressed="false", data_outcome=outcome)
        for outcome in outcomes
    ]
    labels = sorted({picture.sample.label for picture in pictures.shown})
    choices = [tag("option", "every class", value="")]
    choices += [tag("option", named(label, names), value=label) for label in labels]
    return tag(
        "div",
        tag("div", *buttons, role="group", aria_label="Show pictures by outcome"),
        tag("label", "Label ", tag("select", *choices)),
        tag("output", f"{len(pictures.shown)} shown"),
        class_="filters",
        hidden=True,
    )


def _card(picture: Picture, result: Result, names: tuple[str, ...] | None, size: tuple[int, int], number: int) -> Html:
    sample = picture.sample
    label, answer = named(sample.label, names), named(sample.prediction, names)
    answered = label if label == answer else f"{label} → {answer}"
    width, height = size
    facts = [
        ("sample", str(sample.index)),
        ("label", label),
        ("answer unperturbed", answer),
        ("status", sample.status),
        ("settled by", sample.decided_by or "nothing"),
        ("margin at least", "unknown" if sample.margin is None else decimal(sample.margin)),
        ("time", seconds(sample.time_s)),
    ]
    extra: Html | None = None
    if picture.counterexample and picture.difference and picture.largest is not None:
        extra = tag(
            "div",
            _figure(picture.counterexample, size, "counterexample", f"A perturbation of sample {sample.index}"),
            _figure(
                picture.difference,
                size,
                f"the difference: grey none, black and white ε less and more; at most {decimal(picture.largest)}",
                f"The perturbation of sample {sample.index} alone",
            ),
            class_="perturbed",
        )
    return tag(
        "details",
        tag(
            "summary",
            tag(
                "img",
                src=picture.image,
                alt=f"Sample {sample.index}, {sample.outcome}: {answered}",
                width=width,
                height=height,
                loading="lazy",
            ),
            tag("span", swatch(sample.outcome), f" {answered}", class_="caption", aria_hidden="true"),
        ),
        tag("div", extra, definitions(facts), class_="opened"),
        class_=f"card {sample.outcome}",
        name=f"pictures-{number}",
        data_outcome=sample.outcome,
        data_label=sample.label,
    )


def _figure(source: str, size: tuple[int, int], caption: str, alternative: str) -> Html:
    image = tag("img", src=source, alt=alternative, width=size[0], height=size[1], loading="lazy")
    return tag("figure", image, tag("figcaption", caption))


def definitions(facts: list[tuple[str, str]]) -> Html:
    """Terms and what they are."""
    return tag("dl", *(tag("div", tag("dt", term), tag("dd", value)) for term, value in facts), class_="facts")
