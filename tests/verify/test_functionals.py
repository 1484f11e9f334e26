"""Functionals that repeat their coefficients are treated like those that write them out."""

from __future__ import annotations

import numpy as np
import pytest

from verify.bounds.functionals import dot, dot_of_magnitudes, times

SHAPE = 3, 5, 4, 6
"""Of terms of matrix products: heads, rows, columns, and terms of each sum."""


def functionals(rng: np.random.Generator, repeated: tuple[int, ...]) -> np.ndarray:
    """Two lanes of seven, repeated along those axes of `SHAPE`."""
    sizes = tuple(1 if axis in repeated else size for axis, size in enumerate(SHAPE))
    return np.broadcast_to(rng.normal(size=(2, 7, *sizes)), (2, 7, *SHAPE))


@pytest.mark.parametrize("repeated", [(), (3,), (0,), (1, 3)])
@pytest.mark.parametrize("lanes", [1, 2])
def test_dot_products(repeated: tuple[int, ...], lanes: int) -> None:
    rng = np.random.default_rng(0)
    a, x = functionals(rng, repeated), rng.normal(size=(lanes, *SHAPE))
    for found, coefficients in ((dot(a, x), a), (dot_of_magnitudes(a, x), np.abs(a))):
        np.testing.assert_allclose(found, (coefficients * x[:, np.newaxis]).sum(axis=(2, 3, 4, 5)), rtol=1e-12)


@pytest.mark.parametrize("repeated", [(), (3,), (2, 3)])
@pytest.mark.parametrize("lanes", [1, 2])
@pytest.mark.parametrize(
    ("shape", "of_factor"),
    [
        (SHAPE, SHAPE),
        ((3, 5, 1, 6), (3, 1, 4, 6)),
        ((3, 1, 4, 6), (3, 5, 1, 6)),
        ((1, 5, 1, 6), (3, 1, 4, 6)),
        ((3, 1, 4, 6), (1, 5, 1, 6)),
        ((3, 5, 1, 6), (3, 5, 4, 6)),
        ((3, 1, 1, 6), (3, 5, 4, 6)),
        ((3, 5, 1, 1), (3, 1, 4, 6)),
    ],
)
def test_functionals_of_what_is_multiplied(
    shape: tuple[int, ...], of_factor: tuple[int, ...], lanes: int, repeated: tuple[int, ...]
) -> None:
    rng = np.random.default_rng(0)
    a, x, factor = functionals(rng, repeated), rng.normal(size=(2, *shape)), rng.normal(size=(lanes, *of_factor))
    found = times(a, factor, shape)
    assert found.shape == (2, 7, *shape)
    np.testing.assert_allclose(dot(found, x), (a * (factor * x)[:, np.newaxis]).sum(axis=(2, 3, 4, 5)), rtol=1e-10)
