"""Losses and accuracies for TensorBoard, epoch by epoch. Importing this raises RunProblem where it is not installed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from adcert.problems import RunProblem
from adcert.progress import Silent
from adcert.recipe import Recipe

try:
    from torch.utils.tensorboard import SummaryWriter
except ImportError:
    raise RunProblem("--tensorboard needs TensorBoard: pip install 'adcert[tensorboard]'") from None


class TensorBoard(Silent):
    """Writes events below `folder`, a folder for each phase (teacher, student)."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def begin(self, phase: str, recipe: Recipe, *, epochs_done: int, steps_per_epoch: int) -> None:
        self._writer = SummaryWriter(str(self._folder / phase), purge_step=epochs_done + 1)

    def epoch(self, metrics: dict[str, Any]) -> None:
        values = {f"loss/{term}": value for term, value in metrics["losses"].items()}
        values |= {f"held-out/{key}": metrics[key] for key in ("clean_accuracy", "pgd_accuracy", "ibp_accuracy")}
        for name, value in {**values, "eps": metrics["eps"], "time_s": metrics["time_s"]}.items():
            self._writer.add_scalar(name, value, metrics["epoch"])
        self._writer.flush()

    def end(self) -> None:
        self._writer.close()
