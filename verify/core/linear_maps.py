"""Linear maps in float64, kept in the structure that the network has them in: a convolution is never unrolled.

Every array carries a leading axis of *lanes*, independent samples; the shapes below leave it out. The weights are the
model's float32 numbers, exact in float64, possibly scaled (`scaled`) with a relative error of one float64 rounding per
scaling.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from verify.core.rounding import Array
from verify.core.windows import Window

_WORKSPACE = 2**19
"""Elements that the adjoint of a convolution holds at a time (4 MiB, for the caches), or else one sample's."""


_UNROLLED = 2**16
"""Elements of rows of windows that a convolution holds at a time (512 KiB, for the caches), or else one sample's."""

_SPREAD = 1.3
"""The adjoint of a convolution adds each window to where it came from, rather than gather windows of the result, if
that has so many times as many positions: windows at its rim are mostly padding."""


class LinearMap(Protocol):
    """y = A x."""

    @property
    def terms(self) -> int:
        """The largest number of non-zero weights in a row of A."""

    def live_terms(self, live: NDArray[np.bool_]) -> NDArray[np.int_]:
        """Of each element of A x, at least as many as have a non-zero weight and a live element of x, and at most
        `terms`; in a shape that broadcasts to it."""

    @property
    def absolute(self) -> LinearMap:
        """|A|: the same map with the magnitudes of its weights."""

    @property
    def largest(self) -> float:
        """The largest magnitude of a weight."""

    def __call__(self, x: Array) -> Array:
        """A x, for every lane."""

    def adjoint(self, y: Array, shape: tuple[int, ...]) -> Array:
        """A' y, for every lane, where A takes arrays of that shape; a sum of at most as many terms as y has elements
        in a lane."""

    def scaled(self, scale: Array) -> LinearMap:
        """diag(scale) A, for a scale that broadcasts to the output."""


@dataclass(frozen=True, eq=False)
class Diagonal:
    """y = scale * x, elementwise; `scale` broadcasts to the shape of x."""

    scale: Array

    @property
    def terms(self) -> int:
        return 1

    def live_terms(self, live: NDArray[np.bool_]) -> NDArray[np.int_]:
        return np.ones((1,) * live.ndim, np.int_)

    @cached_property
    def absolute(self) -> Diagonal:
        return Diagonal(np.abs(self.scale))

    @cached_property
    def largest(self) -> float:
        return _largest(self.scale)

    def __call__(self, x: Array) -> Array:
        return x * self.scale

    def adjoint(self, y: Array, shape: tuple[int, ...]) -> Array:
        return y * self.scale

    def scaled(self, scale: Array) -> Diagonal:
        return Diagonal(self.scale * scale)


@dataclass(frozen=True, eq=False)
class Dense:
    """y = x W over the last axis of x; W is ... x K x N, its leading axes broadcast against those of x."""

    weight: Array

    @cached_property
    def terms(self) -> int:
        return int(np.count_nonzero(self.weight, axis=-2).max(initial=0))

    def live_terms(self, live: NDArray[np.bool_]) -> NDArray[np.int_]:
        return np.minimum(np.count_nonzero(live, axis=-1, keepdims=True), self.terms)

    @cached_property
    def absolute(self) -> Dense:
        return Dense(np.abs(self.weight))

    @cached_property
    def largest(self) -> float:
        return _largest(self.weight)

    def __call__(self, x: Array) -> Array:
        if self.weight.ndim == 2 and x.ndim > 2:  # one product instead of one per lane
            return (x.reshape(-1, x.shape[-1]) @ self.weight).reshape(*x.shape[:-1], -1)
        return np.asarray(np.matmul(x, self.weight))

    def adjoint(self, y: Array, shape: tuple[int, ...]) -> Array:
        if self.weight.ndim == 2:
            y, weight = y.reshape(-1, y.shape[-1]), self.weight
            used = y.any(axis=0)  # what an inactive neuron reads has no coefficient
            if 2 * used.sum() < used.size:
                y, weight = y[:, used], weight[:, used]
            return (y @ weight.T).reshape(-1, *shape)
        x = np.asarray(np.matmul(y, np.swapaxes(self.weight, -1, -2)))
        repeated = tuple(axis + 1 for axis, size in enumerate(shape) if size == 1 and x.shape[axis + 1] > 1)
        return np.asarray(x.sum(axis=repeated, keepdims=True))

    def scaled(self, scale: Array) -> LinearMap:
        if scale.size == 1 or scale.size == scale.shape[-1]:
            return Dense(self.weight * scale.reshape(-1))
        return Scaled(self, scale)


@dataclass(frozen=True, eq=False)
class Convolution:
    """Cross-correlation of N x C x spatial with a weight of O x C/groups x kernel."""

    weight: Array
    window: Window
    groups: int

    @cached_property
    def terms(self) -> int:
        return int(np.count_nonzero(self.weight.reshape(len(self.weight), -1), axis=1).max(initial=0))

    def live_terms(self, live: NDArray[np.bool_]) -> NDArray[np.int_]:
        axes = len(self.window.kernel)
        lead, channels, spatial = live.shape[: -axes - 1], live.shape[-axes - 1], live.shape[-axes:]
        grouped = live.reshape(*lead, self.groups, channels // self.groups, *spatial)
        counts = grouped.sum(axis=-axes - 1, dtype=np.int32)
        in_windows = np.sum(list(self.window.taps(counts, 0)), axis=0)
        every = (
            np.repeat(in_windows, len(self.weight) // self.groups, axis=-axes - 1) if self.groups > 1 else in_windows
        )
        return np.asarray(np.minimum(every, self.terms))

    @cached_property
    def absolute(self) -> Convolution:
        return Convolution(np.abs(self.weight), self.window, self.groups)

    @cached_property
    def largest(self) -> float:
        return _largest(self.weight)

    @cached_property
    def _of_rows(self) -> Array:
        """The weights as a matrix for each tap of all spatial axes but the last, and each group: outputs x (taps of the
        last axis and channels)."""
        outputs, channels = len(self.weight) // self.groups, self.weight.shape[1]
        kernel = self.weight.reshape(self.groups, outputs, channels, -1, self.window.kernel[-1])
        kernel = np.ascontiguousarray(kernel.transpose(3, 0, 1, 4, 2))
        return kernel.reshape(len(kernel), self.groups, outputs, -1)

    def __call__(self, x: Array) -> Array:
        axes = len(self.window.kernel)
        lead, channels, spatial = x.shape[: -axes - 1], x.shape[-axes - 1], x.shape[-axes:]
        samples = x.reshape(-1, self.groups, channels // self.groups, *spatial)
        output, unrolled = self.window.output(spatial), self.window.unrolled(spatial)
        shape = self.groups, self.window.kernel[-1], samples.shape[2], *unrolled
        chunk = int(np.clip(_UNROLLED // max(1, math.prod(shape)), 1, max(1, len(samples))))
        columns = np.zeros((chunk, *shape))
        sums = np.empty((len(samples), self.groups, self._of_rows.shape[2], math.prod(output)))
        products = np.empty((chunk, *sums.shape[1:]))
        for start in range(0, len(samples), chunk):
            part = samples[start : start + chunk]
            count = len(part)
            self.window.unroll(part, columns[:count])
            for tap, cut in enumerate(self.window.leading_cuts(spatial)):
                rows = columns[(slice(count), ..., *cut, slice(None))].reshape(count, self.groups, -1, sums.shape[-1])
                if tap == 0:
                    np.matmul(self._of_rows[tap], rows, out=sums[start : start + count])
                else:
                    sums[start : start + count] += np.matmul(self._of_rows[tap], rows, out=products[:count])
        return sums.reshape(*lead, len(self.weight), *output)

    @cached_property
    def _mirrored(self) -> Convolution | None:
        """The adjoint, where that is a convolution: without strides."""
        reversed_ = self.window.reversed
        if reversed_ is None:
            return None
        kernel = self.weight.reshape(self.groups, -1, *self.weight.shape[1:]).swapaxes(1, 2)
        kernel = np.flip(kernel, tuple(range(3, kernel.ndim)))
        return Convolution(kernel.reshape(-1, *kernel.shape[2:]), reversed_, self.groups)

    @cached_property
    def _of_taps(self) -> Array:
        """The weights as a matrix for each group: (taps and channels) x outputs."""
        kernel = self.weight.reshape(self.groups, len(self.weight) // self.groups, self.weight.shape[1], -1)
        return np.ascontiguousarray(kernel.transpose(0, 3, 2, 1)).reshape(self.groups, -1, kernel.shape[1])

    def adjoint(self, y: Array, shape: tuple[int, ...]) -> Array:
        axes = len(self.window.kernel)
        spatial, output = shape[-axes:], y.shape[-axes:]
        places, positions = int(np.prod(spatial)), int(np.prod(output))
        if self._mirrored and places < _SPREAD * positions:
            return self._mirrored(y).reshape(len(y), *shape)
        channels, taps = self.weight.shape[1], int(np.prod(self.window.kernel))
        outputs = len(self.weight) // self.groups
        samples = y.reshape(-1, self.groups, outputs, positions)
        chunk = max(1, _WORKSPACE // max(1, len(self.weight) * positions, channels * max(places, taps * positions)))
        result = np.empty((len(samples), self.groups, channels, *spatial))
        for start in range(0, len(samples), chunk):
            part = samples[start : start + chunk]
            columns = np.ascontiguousarray(part.transpose(1, 2, 3, 0)).reshape(self.groups, outputs, -1)
            products = (self._of_taps @ columns).reshape(self.groups, taps, channels, *output, len(part))
            found = self.window.scattered(products.swapaxes(0, 1), spatial)
            result[start : start + chunk] = np.moveaxis(found, -1, 0)
        return result.reshape(len(y), *shape)

    def scaled(self, scale: Array) -> LinearMap:
        channel = -len(self.window.kernel) - 1
        if scale.size == 1 or (scale.ndim >= -channel and scale.size == scale.shape[channel]):
            return Convolution(self.weight * scale.reshape(-1, *[1] * (self.weight.ndim - 1)), self.window, self.groups)
        return Scaled(self, scale)


@dataclass(frozen=True, eq=False)
class Reduction:
    """The sum over `axes` of an array of shape `shape`, whose axes stay with length one."""

    axes: tuple[int, ...]
    shape: tuple[int, ...]
    largest: float = 1.0

    @property
    def terms(self) -> int:
        return int(np.prod([self.shape[axis] for axis in self.axes], dtype=np.int64))

    def live_terms(self, live: NDArray[np.bool_]) -> NDArray[np.int_]:
        return np.asarray(np.count_nonzero(live, axis=tuple(axis + 1 for axis in self.axes), keepdims=True))

    @property
    def absolute(self) -> Reduction:
        return self

    def __call__(self, x: Array) -> Array:
        return np.asarray(x.sum(axis=tuple(axis + 1 for axis in self.axes), keepdims=True))

    def adjoint(self, y: Array, shape: tuple[int, ...]) -> Array:
        return np.broadcast_to(y, (len(y), *shape))

    def scaled(self, scale: Array) -> LinearMap:
        return Scaled(self, scale)


@dataclass(frozen=True, eq=False)
class Scaled:
    """y = scale * (A x): for a scale that varies where the weights of A are shared."""

    map: LinearMap
    scale: Array

    @property
    def terms(self) -> int:
        return self.map.terms

    def live_terms(self, live: NDArray[np.bool_]) -> NDArray[np.int_]:
        return self.map.live_terms(live)

    @cached_property
    def absolute(self) -> Scaled:
        return Scaled(self.map.absolute, np.abs(self.scale))

    @cached_property
    def largest(self) -> float:
        return self.map.largest * _largest(self.scale)

    def __call__(self, x: Array) -> Array:
        return self.map(x) * self.scale

    def adjoint(self, y: Array, shape: tuple[int, ...]) -> Array:
        return self.map.adjoint(y * self.scale, shape)

    def scaled(self, scale: Array) -> Scaled:
        return Scaled(self.map, self.scale * scale)


def _largest(weights: Array) -> float:
    return float(np.abs(weights).max(initial=0.0))
