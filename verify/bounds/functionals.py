"""Arithmetic on functionals: arrays of coefficients, lanes x functionals x the shape of a tensor.

Sums of products of two values, as attention has them, hold each coefficient as often as the sum has terms. Where an
array is a view that repeats its numbers along an axis (stride 0), so do the functions below without writing them out.
"""

from __future__ import annotations

import numpy as np

from verify.core.primitives import Shape
from verify.core.rounding import Array


def dot(a: Array, x: Array) -> Array:
    """Functionals of values (lanes, or one, x shape)."""
    a, x = _once(a, x)
    return np.asarray((a.reshape(*a.shape[:2], -1) @ x.reshape(len(x), -1, 1))[..., 0])


def dot_of_magnitudes(a: Array, x: Array) -> Array:
    """The same for the magnitudes of the coefficients."""
    a, x = _once(a, x)
    return np.asarray((np.abs(a).reshape(*a.shape[:2], -1) @ x.reshape(len(x), -1, 1))[..., 0])


def times(a: Array, factor: Array, shape: Shape) -> Array:
    """Functionals a of y = factor * x as those of x, of that shape, which broadcasts to that of y, as does the shape of
    the factor (lanes, or one, x shape)."""
    factor = factor[:, np.newaxis]
    if a.ndim > 4 and a.shape[-1] == shape[-1] == factor.shape[-1] > 1 and not a.strides[-1]:
        each = a[..., 0]
        if factor.shape[-3] == shape[-2] == 1:  # the rows of a matrix product
            return _summed((each @ factor[..., 0, :, :])[..., np.newaxis, :], shape)
        if factor.shape[-2] == shape[-3] == 1:  # its columns
            return _summed((each.swapaxes(-1, -2) @ factor[..., 0, :])[..., np.newaxis, :, :], shape)
    return _summed(a * factor, shape)


def _summed(a: Array, shape: Shape) -> Array:
    """Over the axes along which something of that shape is repeated."""
    axes = tuple(axis for axis, size in enumerate(shape, 2) if size == 1 and a.shape[axis] > 1)
    return a.sum(axis=axes, keepdims=True) if axes else a


def _once(a: Array, x: Array) -> tuple[Array, Array]:
    """Functionals of other values that are the same: sums along the axes along which the functionals are repeated."""
    if 0 in a.strides:
        for axis in range(2, a.ndim):
            if a.shape[axis] > 1 and not a.strides[axis]:
                a, x = a[(slice(None),) * axis + (slice(1),)], x.sum(axis=axis - 1, keepdims=True)
    return a, x
