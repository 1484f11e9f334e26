"""A model card: what an ONNX file is and what was proved of it, in Markdown, from a verification's result."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from verify.boxes import eps_text
from verify.files import write_atomically
from verify.tasks.effort import Effort
from verify.tasks.result import Question, Summary, versions

_PROVED = {
    "float32-any-order": "every input within the perturbation gets the same class from every execution of the "
    "file with this SHA-256 that follows the contract `float32-any-order`: IEEE binary32, rounded to nearest, no "
    "flush to zero, sums in any order, no TF32, no reduced precision, direct convolution",
    "real": "over the real numbers, every input within the perturbation gets the same class; this says nothing about "
    "an execution in float32",
}


def write_card(path: Path, question: Question, summary: Summary, metadata: Mapping[str, str]) -> None:
    """Write the card of a verified model; raises Problem when that fails."""
    write_atomically(path, card(question, summary, metadata).encode())


def card(question: Question, summary: Summary, metadata: Mapping[str, str]) -> str:
    """The card's text. metadata: the model's own, of which those prefixed `adcert.` are shown."""
    data = question.data
    inside = "" if question.input_range is None else " inside [{:g}, {:g}]".format(*question.input_range)
    attacked = (
        [("attacked accuracy", f"{summary.attacked_accuracy:.2f} % ({_effort(question.attack)})")]
        if summary.attacked_accuracy is not None and question.attack
        else []
    )
    rows = [
        ("file", f"`{Path(question.model_path).name}`"),
        ("SHA-256", f"`{question.model_sha256}`"),
        ("samples", f"{summary.samples} of {data.name} {data.split or ''}".strip() + f", from {data.start}"),
        ("perturbation", f"l_inf, eps {eps_text(question.eps)}{inside}"),
        ("clean accuracy", f"{summary.clean_accuracy:.2f} %"),
        *attacked,
        ("certified accuracy", f"{summary.certified_accuracy:.2f} % ({question.method})"),
        ("undecided", f"{summary.undecided} of {summary.samples}"),
        ("contract", f"`{question.contract}`"),
    ]
    own = {key.removeprefix("adcert."): value for key, value in metadata.items() if key.startswith("adcert.")}
    recipe = own.pop("recipe", None)
    lines = [
        f"# {Path(question.model_path).stem}",
        "",
        *_table(("what", "value"), rows),
        "",
        f"For each certified sample it is proved that {_PROVED[question.contract]}.",
        "",
        "Nothing is said about other perturbations, about inputs that were not looked at, or about undecided samples, "
        "each of which may be robust or not. The percentages are of these samples and promise nothing of others.",
        "",
        "To find the same again: "
        f"`adcert verify {Path(question.model_path).name} --data {data.name} --eps {eps_text(question.eps)} "
        f"--start {data.start} --count {summary.samples} --method {question.method} --contract {question.contract}`",
        "",
        "## What the file says of itself",
        "",
        *_table(("key", "value"), [(key, f"`{value}`") for key, value in sorted(own.items())]),
    ]
    if recipe is not None:
        lines += ["", "## Recipe", "", "```json", json.dumps(json.loads(recipe), indent=1), "```"]
    found = ", ".join(f"{name} {version}" for name, version in versions().items() if version)
    return "\n".join([*lines, "", f"Verified with {found}.", ""])


def _effort(attack: Effort) -> str:
    return f"{attack.steps} steps, {attack.restarts} restarts"


def _table(head: tuple[str, str], rows: list[tuple[str, str]]) -> list[str]:
    def row(cells: tuple[str, str]) -> str:
        return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"

    return [row(head), "| --- | --- |", *map(row, rows)]
