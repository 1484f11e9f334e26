"""Arrays in torch."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor as Values

from verify.core.rounding import Array


class Constants:
    """Arrays of a network as tensors on a device, converted once. dtype: of numbers that are no indices."""

    def __init__(self, dtype: torch.dtype, device: torch.device | None = None) -> None:
        self._dtype, self._device = dtype, device
        self._known: dict[int, tuple[object, Values]] = {}

    def __call__(self, array: Array) -> Values:
        return self._converted(array, lambda: torch.tensor(array).to(self._device, self._dtype))

    def index(self, array: np.ndarray) -> Values:
        return self._converted(array, lambda: torch.tensor(array, dtype=torch.int64, device=self._device))

    def _converted(self, array: np.ndarray, convert: Callable[[], Values]) -> Values:
        if id(array) not in self._known:
            self._known[id(array)] = array, convert()  # keeping the array keeps its id its own
        return self._known[id(array)][1]
