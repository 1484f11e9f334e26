"""Operators that only repeat elements, a whole number of times: exact in every arithmetic."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from verify.model.operators.movement import move, reduced
from verify.model.operators.node import Node, Operand
from verify.model.operators.registry import operator

_LONGEST = 2**22
"""Elements along an axis of the result. Runtimes find out by a float32 division which element is repeated; below that
its rounding does not change which."""


@operator("Upsample", 7, 9)
def upsample(node: Node, x: Operand, scales: Operand | None = None) -> Operand:
    factors = node.attribute("scales") if node.version < 9 else node.weights(scales, "the scales").reshape(-1).tolist()
    _require(node, "mode", "nearest", default="nearest")
    return _repeated(node, x, range(len(x.shape)), factors)


@operator("Resize", 10, 11, 13, 18, 19)
def resize(node: Node, x: Operand, *operands: Operand | None) -> Operand:
    return upsample(node, x, *operands) if node.version == 10 else _resized(node, x, *operands)


def _resized(
    node: Node, x: Operand, region: Operand | None = None, scales: Operand | None = None, sizes: Operand | None = None
) -> Operand:
    """As Upsample, if the attributes say so. An operand without elements counts as missing; the region, and numbers
    among the attributes, are for modes that are refused."""
    _require(node, "mode", "nearest", default="nearest")
    _require(node, "coordinate_transformation_mode", "asymmetric", default="half_pixel")
    _require(node, "nearest_mode", "floor", default="round_prefer_floor")
    flags = ["exclude_outside", "antialias"][: 2 if node.version >= 18 else 1]
    axes: Sequence[int] = range(len(x.shape))
    if node.version >= 18:
        _require(node, "keep_aspect_ratio_policy", "stretch", default="stretch")
        axes = [reduced(axis, len(x.shape), node) for axis in node.attribute("axes", axes)]
    for unread in ("cubic_coeff_a", "extrapolation_value"):
        node.attribute(unread)
    if wanted := [name for name in flags if node.flag(name)]:
        node.refuse(f"{' and '.join(wanted)} is not supported")
    given = [operand is not None and 0 not in operand.shape for operand in (scales, sizes)]
    if given == [True, False]:
        factors = node.weights(scales, "the scales").reshape(-1).tolist()
    elif given == [False, True]:
        lengths = node.integers(sizes, "the sizes")
        factors = [length / x.shape[axis] for axis, length in zip(axes, lengths, strict=True)]
    else:
        node.refuse("either scales or sizes must be given")
    return _repeated(node, x, axes, factors)


def _require(node: Node, name: str, wanted: str, *, default: str) -> None:
    found = node.attribute(name, default.encode()).decode()
    if found != wanted:
        node.refuse(f"{name} {found!r} is not supported: {wanted!r}, which repeats elements, is")


def _repeated(node: Node, x: Operand, axes: Sequence[int], factors: Sequence[float]) -> Operand:
    """Each element as often as the factors say, along those axes."""
    if len(factors) != len(axes) or len(set(axes)) != len(axes):
        node.refuse(f"{len(factors)} factors do not fit {len(axes)} axes")
    if not all(factor >= 1 and float(factor).is_integer() for factor in factors):
        node.refuse(f"the factors {list(factors)} are not supported: whole numbers from 1 on are")
    repeats = {axis: int(factor) for axis, factor in zip(axes, factors, strict=True)}
    shape = [size * repeats.get(axis, 1) for axis, size in enumerate(x.shape)]
    node.require_size(shape)
    if max(shape, default=1) > _LONGEST:
        node.refuse(f"a value of shape {tuple(shape)} has too long an axis")

    def repeated(a: NDArray[Any]) -> NDArray[Any]:
        for axis, count in repeats.items():
            a = np.repeat(a, count, axis)
        return a

    return move(node, x, repeated)


@operator("Tile", 6, 13)
def tile(node: Node, x: Operand, repeats: Operand) -> Operand:
    """All of x so many times along each axis."""
    counts = node.integers(repeats, "the repeats")
    if len(counts) != len(x.shape) or min(counts, default=1) < 1:
        node.refuse(f"the repeats {counts} do not fit {x.shape}")
    node.require_size([size * count for size, count in zip(x.shape, counts, strict=True)])
    return move(node, x, lambda a: np.tile(a, counts))
