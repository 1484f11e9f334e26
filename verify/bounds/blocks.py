"""Which blocks of a tensor to bound at a time: a block of what a convolution computes depends on a small part of the
network (`verify.bounds.cones`), but the bounds of each kind of block cost time of their own."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from verify.bounds.cones import Tiles, count_of_kinds, tilings, whole
from verify.core.primitives import Tensor

_OVERHEAD = 2**16
"""Of the bounds of blocks of a kind, in the time that as many coefficients take."""

_PER_BLOCK = 1
"""Of a block, for what depends on its intervals alone, in the time that so many functionals take."""


def cheapest_tilings(tensor: Tensor, wanted: NDArray[np.bool_]) -> tuple[Tiles, ...]:
    """The tensor in blocks, so that bounds of its wanted elements take little work."""
    best: tuple[Tiles, ...] = (whole(tensor),)
    if not wanted.any():
        return best
    least = _work(wanted, best)
    for edge in (16, 8, 4, 2, 1):
        if edge < max(tensor.shape[2:], default=0) and _OVERHEAD * count_of_kinds(tensor, edge) < least:
            each = tilings(tensor, edge)
            if (work := _work(wanted, each)) < least:
                best, least = each, work
    return best


def _work(wanted: NDArray[np.bool_], each: tuple[Tiles, ...]) -> int:
    work = 0
    for tiles in each:
        counts = wanted[:, tiles.inside].sum(axis=2)
        work += _OVERHEAD * bool(counts.any()) + tiles.cone.size * int((counts + _PER_BLOCK * (counts > 0)).sum())
    return work
