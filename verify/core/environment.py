"""Is the arithmetic of this process what the error bounds assume? Another library may have changed it."""

from __future__ import annotations

import numpy as np

from verify.errors import Problem

_SIZE = 512
"""Rows of the matrices that are multiplied: enough for a BLAS to use every thread."""


class BrokenArithmetic(Problem):
    """This process does not compute as IEEE 754 demands, so that nothing can be certified in it."""

    exit_code = 3


def require_ieee_arithmetic() -> None:
    """Raise BrokenArithmetic unless float64 rounds to nearest and keeps subnormal numbers, elementwise and in matrix
    products, on the threads that these use now."""
    one = np.ones(_SIZE)
    tie, above_tie = one * 2.0**-53, one * (2.0**-53 + 2.0**-70)
    nearest = (one + tie == one) & (one + above_tie == one + 2.0**-52) & (-one - tie == -one) & (one - 2.0**-54 == one)
    if not nearest.all():
        raise BrokenArithmetic("float64 arithmetic in this process does not round to nearest: nothing is certified")
    tiny = 2.0**-537
    single = np.zeros((8, _SIZE))
    single[0] = tiny
    halved, product = one * 2.0**-1073 / 2.0, np.full((_SIZE, 8), tiny) @ single
    if not all((result.view(np.int64) == 1).all() for result in (halved, product)):  # bits: comparisons may flush too
        raise BrokenArithmetic(
            "float64 arithmetic in this process flushes subnormal numbers to zero (some libraries turn that on): "
            "nothing is certified"
        )
    rng = np.random.default_rng(0)
    a, b = rng.integers(-(2**20), 2**20, (2, 64, 64))
    if not np.array_equal(a.astype(np.float64) @ b.astype(np.float64), a @ b):
        raise BrokenArithmetic("matrix products of integers are not exact in this process: nothing is certified")
