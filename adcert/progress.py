"""What a person sees while training: one line per epoch, and below them a bar if stderr is a terminal."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from rich.columns import Columns
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TaskProgressColumn, TextColumn, TimeRemainingColumn

from adcert.evaluate import Accuracies
from adcert.recipe import Recipe
from adcert.train import Reporter


class Silent:
    """Nothing."""

    def begin(self, phase: str, recipe: Recipe, *, epochs_done: int, steps_per_epoch: int) -> None:
        pass

    def step(self) -> None:
        pass

    def epoch(self, metrics: dict[str, Any]) -> None:
        pass

    def end(self) -> None:
        pass


class Several:
    """Tells all of them."""

    def __init__(self, *reporters: Reporter) -> None:
        self._reporters = reporters

    def begin(self, phase: str, recipe: Recipe, *, epochs_done: int, steps_per_epoch: int) -> None:
        for each in self._reporters:
            each.begin(phase, recipe, epochs_done=epochs_done, steps_per_epoch=steps_per_epoch)

    def step(self) -> None:
        for each in self._reporters:
            each.step()

    def epoch(self, metrics: dict[str, Any]) -> None:
        for each in self._reporters:
            each.epoch(metrics)

    def end(self) -> None:
        for each in self._reporters:
            each.end()


class Lines(Silent):
    """One line per epoch."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._phase = ""
        self._epochs = 0

    def begin(self, phase: str, recipe: Recipe, *, epochs_done: int, steps_per_epoch: int) -> None:
        self._phase, self._epochs = phase, recipe.epochs
        if epochs_done:
            self._say(f"{phase}: continuing after epoch {epochs_done} of {recipe.epochs}")

    def epoch(self, metrics: dict[str, Any]) -> None:
        accuracies = "  ".join(
            f"{name} {metrics[key]:.1f} %"
            for name, key in (("clean", "clean_accuracy"), ("PGD", "pgd_accuracy"), ("IBP", "ibp_accuracy"))
        )
        self._say(  # within 80 columns or nearly so; the terms of the loss are in metrics.jsonl
            f"{self._phase} {metrics['epoch']}/{self._epochs}  eps {metrics['eps']:.3g}  "
            f"loss {sum(metrics['losses'].values()):.3f}  {accuracies}  {metrics['time_s']:.0f} s"
        )

    def _say(self, line: str) -> None:
        self._console.print(line, highlight=False, markup=False, soft_wrap=True)


class Bar(Lines):
    """The lines, and below them a bar over all steps of the phase with the time left."""

    def __init__(self, console: Console) -> None:
        super().__init__(console)
        columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
        self._progress = Progress(*columns, console=console, transient=True)
        self._task = TaskID(0)

    def begin(self, phase: str, recipe: Recipe, *, epochs_done: int, steps_per_epoch: int) -> None:
        super().begin(phase, recipe, epochs_done=epochs_done, steps_per_epoch=steps_per_epoch)
        total, done = recipe.epochs * steps_per_epoch, epochs_done * steps_per_epoch
        self._task = self._progress.add_task(self._description(epochs_done), total=total, completed=done)
        self._progress.start()

    def step(self) -> None:
        self._progress.advance(self._task)

    def epoch(self, metrics: dict[str, Any]) -> None:
        super().epoch(metrics)
        self._progress.update(self._task, description=self._description(metrics["epoch"]))

    def end(self) -> None:
        self._progress.stop()
        self._progress.remove_task(self._task)

    def _description(self, epochs_done: int) -> str:
        return f"{self._phase} {min(epochs_done + 1, self._epochs)}/{self._epochs}"


def summary(held_out: Accuracies) -> str:
    """The accuracies that training watches, on one line."""
    return f"held-out: clean {held_out.clean:.2f} %, PGD {held_out.pgd:.2f} %, IBP {held_out.ibp:.2f} %"


def show_recipe(recipe: str, kept: Path) -> None:
    """A resolved recipe, in as many columns as fit, and where it is kept."""
    console = Console(file=sys.stderr, highlight=False, markup=False)
    console.print(f"recipe, as {kept} keeps it:", soft_wrap=True)
    console.print(Columns(recipe.splitlines(), padding=(0, 4), column_first=True))


def reporter(*, quiet: bool = False) -> Reporter:
    """The one that fits stderr, or whoever wants quiet."""
    if quiet:
        return Silent()
    console = Console(file=sys.stderr)
    return Bar(console) if console.is_terminal else Lines(console)
