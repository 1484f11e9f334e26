"""What a person sees while training: a bar on a terminal, one plain line per epoch anywhere else. Both on stderr."""

from __future__ import annotations

import sys
from typing import Any, TextIO

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from adcert.evaluate import Accuracies
from adcert.recipe import Recipe
from adcert.train import Reporter


class Lines:
    """One line per epoch."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._prefix = ""

    def begin(self, phase: str, recipe: Recipe, *, epochs_done: int, steps_per_epoch: int) -> None:
        self._prefix = f"{phase} epoch %d/{recipe.epochs}"
        if epochs_done:
            self._say(f"{phase}: continuing after epoch {epochs_done} of {recipe.epochs}")

    def step(self) -> None:
        pass

    def epoch(self, metrics: dict[str, Any]) -> None:
        self._say(f"{self._prefix % metrics['epoch']}  {epoch_summary(metrics)}  {metrics['time_s']:.1f} s")

    def end(self) -> None:
        pass

    def _say(self, line: str) -> None:
        print(line, file=self._stream, flush=True)


class Bar:
    """A progress bar over all steps of a phase, with the figures of the last finished epoch."""

    def __init__(self, stream: TextIO) -> None:
        self._console = Console(file=stream)
        self._progress: Progress | None = None
        self._task = TaskID(0)
        self._epochs = 0

    def begin(self, phase: str, recipe: Recipe, *, epochs_done: int, steps_per_epoch: int) -> None:
        self._epochs = recipe.epochs
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[figures]}"),
            console=self._console,
        )
        self._task = self._progress.add_task(
            phase,
            total=recipe.epochs * steps_per_epoch,
            completed=epochs_done * steps_per_epoch,
            figures="",
        )
        self._progress.start()

    def step(self) -> None:
        if self._progress is not None:
            self._progress.advance(self._task)

    def epoch(self, metrics: dict[str, Any]) -> None:
        if self._progress is not None:
            figures = f"epoch {metrics['epoch']}/{self._epochs}  {epoch_summary(metrics)}"
            self._progress.update(self._task, figures=figures)

    def end(self) -> None:
        if self._progress is not None:
            self._progress.stop()
            self._progress = None


def epoch_summary(metrics: dict[str, Any]) -> str:
    """Radius, losses and held-out accuracies of one epoch on one line."""
    losses = " ".join(f"{name} {value:.3f}" for name, value in metrics["losses"].items())
    held_out = Accuracies(metrics["clean_accuracy"], metrics["pgd_accuracy"], metrics["ibp_accuracy"])
    return f"eps {metrics['eps']:.4g}  {losses}  {summary(held_out)}"


def summary(held_out: Accuracies) -> str:
    """The accuracies that training watches, on one line."""
    return f"held-out: clean {held_out.clean:.2f} %, PGD {held_out.pgd:.2f} %, IBP {held_out.ibp:.2f} %"


def reporter() -> Reporter:
    """The one that fits stderr."""
    return Bar(sys.stderr) if sys.stderr.isatty() else Lines(sys.stderr)
