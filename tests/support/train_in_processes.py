"""What torchrun starts in tests: goes on with the run in a folder, and ends without a word after some epochs."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import torch

from adcert import processes, session
from adcert import run as runs
from adcert.recipe import Recipe


class Stopping:
    def __init__(self, epochs: int) -> None:
        self.left = epochs

    def begin(self, phase: str, recipe: Recipe, *, epochs_done: int, steps_per_epoch: int) -> None:
        pass

    def step(self) -> None:
        pass

    def epoch(self, metrics: dict[str, Any]) -> None:
        self.left -= 1
        if not self.left:
            os._exit(0)

    def end(self) -> None:
        pass


if __name__ == "__main__":
    torch.set_num_threads(1)
    with processes.joined():
        session.execute(runs.open_run(Path(sys.argv[1])), torch.device("cpu"), Stopping(int(sys.argv[2])))
