"""Quantised values: an integer q of a few bits stands for the real number scale * (q - zero point)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from verify.core.rounding import Array


@dataclass(frozen=True, eq=False)
class Grid:
    """Which real numbers the integers of a value stand for.

    scale: positive float32 numbers, in float64. zero_point: integers, of one shape with scale: both single numbers, or
    both with one entry per channel, which broadcast to the value. dtype: of the integers.
    """

    scale: Array
    zero_point: NDArray[np.int64]
    dtype: np.dtype[Any]

    @property
    def is_uniform(self) -> bool:
        """Whether one scale holds for the whole value."""
        return self.scale.size == 1

    @property
    def ends(self) -> tuple[float, float]:
        """The smallest and the largest integer, less the zero point; for a uniform grid."""
        limits, zero = np.iinfo(self.dtype), int(self.zero_point.item())
        return float(limits.min - zero), float(limits.max - zero)

    def real(self, q: NDArray[Any]) -> NDArray[np.float32]:
        """What integers stand for, rounded to float32 once, as a runtime computes it."""
        return (q.astype(np.int64) - self.zero_point).astype(np.float32) * self.scale.astype(np.float32)

    def same_as(self, other: Grid) -> bool:
        """Whether both give every integer the same meaning, and have the same integers."""
        return (
            self.dtype == other.dtype
            and np.array_equal(self.scale, other.scale)
            and np.array_equal(self.zero_point, other.zero_point)
        )
