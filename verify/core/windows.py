"""Sliding windows over the trailing (spatial) axes of an array, as convolution and pooling use them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Window:
    """Kernel size, strides, dilations, and padding at the begin and end of each spatial axis."""

    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    begin: tuple[int, ...]
    end: tuple[int, ...]

    def output(self, spatial: tuple[int, ...]) -> tuple[int, ...]:
        """The spatial shape of the result: one entry per position at which the dilated kernel fits."""
        return tuple(
            (size + begin + end - dilation * (kernel - 1) - 1) // stride + 1
            for size, kernel, stride, dilation, begin, end in zip(
                spatial, self.kernel, self.strides, self.dilations, self.begin, self.end, strict=True
            )
        )

    @property
    def reversed(self) -> Window | None:
        """The window of the adjoint, whose taps come in the opposite order; None if it has strides."""
        reach = [dilation * (kernel - 1) for dilation, kernel in zip(self.dilations, self.kernel, strict=True)]
        begin = tuple(r - b for r, b in zip(reach, self.begin, strict=True))
        end = tuple(r - e for r, e in zip(reach, self.end, strict=True))
        if max(self.strides) > 1 or min(*begin, *end) < 0:
            return None
        return Window(self.kernel, self.strides, self.dilations, begin, end)

    @property
    def elements(self) -> list[Window]:
        """For each kernel position, in C order, a window of that element alone: with less padding in front of it, by as
        much as lies before the position, and behind it; negative padding leaves out what only others see."""
        one = (1,) * len(self.kernel)

        def alone(position: tuple[int, ...]) -> Window:
            before = [dilation * tap for dilation, tap in zip(self.dilations, position, strict=True)]
            reach = [dilation * (kernel - 1) for dilation, kernel in zip(self.dilations, self.kernel, strict=True)]
            begin = tuple(pad - left for pad, left in zip(self.begin, before, strict=True))
            end = tuple(pad + left - far for pad, left, far in zip(self.end, before, reach, strict=True))
            return Window(one, self.strides, one, begin, end)

        return [alone(position) for position in product(*map(range, self.kernel))]

    def apart(self, output: tuple[int, ...]) -> Iterator[tuple[slice, ...]]:
        """All windows in parts, along the spatial axes of the result, so that no two of a part share an element.
        output: how many windows there are along each."""
        steps = [
            min(count, -(-(dilation * (kernel - 1) + 1) // stride))
            for kernel, stride, dilation, count in zip(self.kernel, self.strides, self.dilations, output, strict=True)
        ]
        for first in product(*map(range, steps)):
            yield tuple(slice(start, None, step) for start, step in zip(first, steps, strict=True))

    def taps(self, x: NDArray[Any], padding: float) -> Iterator[NDArray[Any]]:
        """For each kernel position, in C order, a view: the element of the padded `x` under it, for every window."""
        spatial = x.shape[-len(self.kernel) :]
        if any(self.begin) or any(self.end):
            padded = np.full((*x.shape[: -len(spatial)], *self._padded(spatial)), padding)
            padded[(..., *self._inside(spatial))] = x
            x = padded
        for cut in self._cuts(spatial):
            yield x[(..., *cut)]

    def scattered(self, taps: NDArray[np.float64], spatial: tuple[int, ...]) -> NDArray[np.float64]:
        """The adjoint of `taps`, with the spatial axes before the last one, so that long runs of memory are added: adds
        each tap's elements (taps x ... x windows x samples) to where they came from, in ... x spatial x samples."""
        before = taps.shape[1 : -len(spatial) - 1]
        padded = np.zeros((*before, *self._padded(spatial), taps.shape[-1]))
        for cut, tap in zip(self._cuts(spatial), taps, strict=True):
            padded[(..., *cut, slice(None))] += tap
        return np.asarray(padded[(..., *self._inside(spatial), slice(None))])

    def unrolled(self, spatial: tuple[int, ...]) -> tuple[int, ...]:
        """The spatial shape of what `unroll` makes."""
        return *self._padded(spatial)[:-1], self.output(spatial)[-1]

    def unroll(self, x: NDArray[np.float64], rows: NDArray[np.float64]) -> None:
        """Write, for each tap of the last axis, the elements of `x` (samples x groups x channels x spatial) under it;
        `rows` (samples x groups x taps x channels x `unrolled`) keeps what it has where the padding is."""
        size, stride, inside = x.shape[-1], self.strides[-1], self._inside(x.shape[-len(self.kernel) :])[:-1]
        for tap in range(self.kernel[-1]):
            first = tap * self.dilations[-1] - self.begin[-1]  # what the first window has under the tap
            start, stop = max(0, -(first // stride)), min(rows.shape[-1], (size - 1 - first) // stride + 1)
            if start < stop:
                source = slice(start * stride + first, (stop - 1) * stride + first + 1, stride)
                rows[(slice(None), slice(None), tap, slice(None), *inside, slice(start, stop))] = x[..., source]

    def leading_cuts(self, spatial: tuple[int, ...]) -> Iterator[tuple[Any, ...]]:
        """For each tap of all axes but the last, in C order, where its elements lie in what `unroll` makes."""
        lead = Window(*(each[:-1] for each in (self.kernel, self.strides, self.dilations, self.begin, self.end)))
        return lead._cuts(spatial[:-1])

    def _padded(self, spatial: tuple[int, ...]) -> list[int]:
        return [n + b + e for n, b, e in zip(spatial, self.begin, self.end, strict=True)]

    def _inside(self, spatial: tuple[int, ...]) -> tuple[Any, ...]:
        """Where the elements lie in the padded array."""
        return tuple(slice(b, b + n) for n, b in zip(spatial, self.begin, strict=True))

    def _cuts(self, spatial: tuple[int, ...]) -> Iterator[tuple[Any, ...]]:
        """For each kernel position, where its elements lie in the padded array."""
        output = self.output(spatial)
        for position in product(*map(range, self.kernel)):
            cut = []
            for tap, dilation, stride, count in zip(position, self.dilations, self.strides, output, strict=True):
                start = tap * dilation
                cut.append(slice(start, start + (count - 1) * stride + 1, stride))
            yield tuple(cut)
