"""The terms of the loss, step by step, on the device: means per epoch and an early end when one is not finite."""

from __future__ import annotations

import torch
from torch import Tensor

from adcert.problems import Diverged

INTERVAL = 100  # steps between looks at the values: each look waits for the device


class Ledger:
    """Collects scalars of one epoch without waiting for the device at every step.

    A sum over the finite terms would hide which of them broke, so each is kept.
    """

    def __init__(self, epoch: int, steps: int, device: torch.device) -> None:
        self._epoch = epoch
        self._steps = steps
        self._device = device
        self._names: list[str] = []
        self._values = torch.zeros(0, device=device)

    def add(self, step: int, terms: dict[str, Tensor]) -> None:
        """Note the terms of `step` (from 0); a term that is absent in some steps counts as 0 there."""
        for name in terms:
            if name not in self._names:
                self._names.append(name)
        zero = torch.zeros((), device=self._device)
        row = torch.stack([terms.get(name, zero).detach() for name in self._names])
        if self._values.shape[-1:] != row.shape:
            wider = torch.zeros(self._steps, len(row), device=self._device)
            if self._values.numel():
                wider[:, : self._values.shape[1]] = self._values
            self._values = wider
        self._values[step] = row
        if (step + 1) % INTERVAL == 0:
            self.check()

    def check(self) -> None:
        """Raise Diverged, naming the first step and its terms, if any value so far is not finite."""
        finite = self._values.isfinite()
        if bool(finite.all()):
            return
        step = int((~finite).any(1).nonzero()[0])
        broken = [name for name, fine in zip(self._names, finite[step].tolist(), strict=True) if not fine]
        raise Diverged(
            f"the loss is not finite in epoch {self._epoch + 1}, step {step + 1} ({', '.join(broken)}); "
            "nothing of this epoch was saved, and a smaller learning_rate may help"
        )

    def means(self) -> dict[str, float]:
        """The mean of each term over the epoch, all of them finite."""
        self.check()
        return dict(zip(self._names, self._values.mean(0).tolist(), strict=True))
