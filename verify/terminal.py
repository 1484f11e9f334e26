"""What people see of a verification: a progress bar, a table, on stderr."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from verify.bounds.methods import next_method
from verify.boxes import eps_text
from verify.core.functions import Function
from verify.core.primitives import Linear, topological
from verify.core.rounding import contract_named
from verify.model.network import Network
from verify.tasks.result import Point, Question, Summary
from verify.tasks.robustness import Status, Verdict

if TYPE_CHECKING:
    from verify.conformance import Finding

CONSOLE = Console(stderr=True, highlight=False)


def progress(
    found: Sequence[Verdict], total: int, what: str = "", *, proves: bool = True
) -> Callable[[Iterator[Verdict]], Iterator[Verdict]]:
    """A watcher that shows a bar on a terminal, or `what` goes on, with running counts and the time left. found:
    verdicts that are known already. proves: whether that is what is done, or attacks only."""

    def watch(verdicts: Iterator[Verdict]) -> Iterator[Verdict]:
        counts = Counter(kind for verdict in found for kind in _kinds(verdict))
        with bar:
            task = bar.add_task("", total=total, completed=len(found), running=_running(counts, len(found), proves))
            for done, verdict in enumerate(verdicts, start=len(found) + 1):
                yield verdict
                counts.update(_kinds(verdict))
                bar.update(task, completed=done, running=_running(counts, done, proves))

    bar = Progress(
        TextColumn(what) if what else BarColumn(bar_width=7),  # all of it fits into 80 columns
        MofNCompleteColumn(),
        TextColumn("{task.fields[running]}"),
        TimeRemainingColumn(),
        TextColumn("left"),
        console=CONSOLE,
        transient=True,
    )
    return watch if CONSOLE.is_terminal and not CONSOLE.quiet else iter


def _running(counts: Mapping[str, int], done: int, proves: bool) -> str:
    """What is known after so many samples."""
    if not done:
        return ""
    clean = f"clean {100 * counts['clean'] / done:.1f} %"
    if not proves:
        return f"{clean}, counterexamples {counts[Status.COUNTEREXAMPLE]}"
    certified = f"certified {100 * counts[Status.VERIFIED] / done:.1f} %"
    return f"{clean}, {certified}, undecided {counts[Status.UNKNOWN] + counts[Status.TIMEOUT]}"


def _kinds(verdict: Verdict) -> Iterator[str]:
    """What a verdict counts as, while it is counted."""
    if verdict.prediction == verdict.label:
        yield "clean"
    yield verdict.status


def show_curve(points: Sequence[Point]) -> None:
    """Accuracies at several radii as a table."""
    table = Table("eps", "clean", "attacked", "certified", "undecided", "time", box=None, padding=(0, 1))
    for point in points:
        found = point.summary
        attacked = "" if found.attacked_accuracy is None else f"{found.attacked_accuracy:.2f} %"
        accuracies = f"{found.clean_accuracy:.2f} %", attacked, f"{found.certified_accuracy:.2f} %"
        table.add_row(eps_text(point.eps), *accuracies, str(found.undecided), f"{found.time_s:.2f} s")
    CONSOLE.print(table)


def show_summary(question: Question, summary: Summary) -> None:
    """The outcome as a table, with what it means."""
    data = question.data
    table = Table(box=None, show_header=False, padding=(0, 1))
    table.add_column(style="bold")
    table.add_column()
    table.add_row("model", question.model_path)
    table.add_row("SHA-256", f"{question.model_sha256[:16]}...")
    which = f"{data.name} {data.split or ''}".strip()
    table.add_row("samples", f"{summary.samples} of {which}, from {data.start}")
    bounds = "" if question.input_range is None else " within [{:g}, {:g}]".format(*question.input_range)
    table.add_row("perturbation", f"l_inf, eps {eps_text(question.eps)}{bounds}")
    table.add_row("clean accuracy", f"{summary.clean_accuracy:.2f} %")
    if summary.attacked_accuracy is not None and question.attack:
        effort = f"{question.attack.steps} steps, {question.attack.restarts} restarts"
        table.add_row("attacked accuracy", f"{summary.attacked_accuracy:.2f} %  ({effort})")
    if question.method:
        table.add_row("certified accuracy", f"{summary.certified_accuracy:.2f} %  ({question.method})")
        more = next_method(question.method) if summary.undecided else None
        advice = f"  (--method {more} tries harder)" if more else ""
        table.add_row("undecided", f"{summary.undecided}{advice}")
    table.add_row("time", f"{summary.time_s:.2f} s")
    if question.method:
        trust = "; intervals as onnxruntime computed them here" if question.engine == "onnx" else ""
        table.add_row("proved", f"{contract_named(question.contract).scope}{trust}")
    CONSOLE.print(table)


def show_network(path: Path, network: Network) -> None:
    """What a model takes and yields, how it is expressed, and what it says of itself."""
    table = Table(box=None, show_header=False, padding=(0, 1))
    table.add_column(style="bold")
    table.add_column(overflow="fold")  # a hash is whole, or of no use
    table.add_row("model", str(path))
    table.add_row("SHA-256", network.sha256)
    table.add_row("opset", str(network.opset))
    for kind, tensors in (("input", network.inputs), ("output", network.outputs)):
        for tensor in tensors:
            table.add_row(kind, f"{tensor.name}  {tensor.dtype} {' x '.join(map(str, tensor.shape))}")
    for key, value in sorted(network.metadata.items()):
        table.add_row(key, value if len(value) <= 300 else value[:97] + "...")
    CONSOLE.print(table)
    steps = Table("primitive", "shape", "terms", "value", box=None, padding=(0, 1))
    for tensor in topological(network.outputs):
        primitive = tensor.primitive
        name, terms = type(primitive).__name__, ""
        if isinstance(primitive, Linear):
            name, terms = f"Linear ({type(primitive.map).__name__})", str(primitive.map.terms)
        elif isinstance(primitive, Function):
            name = f"Function ({primitive.name})"
        steps.add_row(name, " x ".join(map(str, tensor.shape)), terms, tensor.name)
    CONSOLE.print(steps)


def show_conformance(findings: Iterable[Finding]) -> bool:
    """What the probes of a runtime showed, as they come; returns whether any of them found the contract broken."""
    table = Table("onnxruntime provider", "probe", "", "observation", box=None, padding=(0, 1))
    advice: dict[str, None] = {}
    broken = False
    for finding in findings:
        style = {"kept": "green", "broken": "bold red"}.get(finding.outcome, "yellow")
        table.add_row(str(finding.configuration), finding.probe, f"[{style}]{finding.outcome}[/]", finding.observation)
        broken |= finding.outcome == "broken"
        if finding.advice:
            advice[f"{finding.configuration}, {finding.probe}: {finding.advice}"] = None
    CONSOLE.print(table)
    for line in advice:
        CONSOLE.print(line)
    CONSOLE.print(
        "A provider with a broken row does not keep the contract float32-any-order: no certificate holds on it."
        if broken
        else "No probe found the contract float32-any-order broken."
    )
    return broken
