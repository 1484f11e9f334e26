"""Where batch norm's statistics for evaluation come from."""

from __future__ import annotations

from collections.abc import Callable

import torch

from adcert import processes
from adcert.data import Labelled, unit_range
from adcert.folding import fold_batch
from adcert.tracing import Blueprint


def running(model: Blueprint, data: Labelled, batch_size: int) -> None:
    """Keep the running averages of the training steps."""


@torch.no_grad()
def population(model: Blueprint, data: Labelled, batch_size: int) -> None:
    """Replace the running averages by means over the whole of `data`, in whole batches and without augmentation."""
    for batch in range(len(data) // batch_size):
        images = unit_range(processes.rows(data.images[batch * batch_size : (batch + 1) * batch_size]))
        # A momentum of 1, 1/2, 1/3 ... turns the moving average into the plain one.
        fold_batch(model, images, momentum=1 / (batch + 1))


STATISTICS: dict[str, Callable[[Blueprint, Labelled, int], None]] = {"running": running, "population": population}
