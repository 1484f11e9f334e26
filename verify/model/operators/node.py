"""One node of a model, and what a rule of the table makes of it and its operands."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from verify.core.grids import Grid
from verify.core.linear_maps import LinearMap
from verify.core.primitives import FLOAT32, Constant, Linear, Primitive, Shape, Tensor
from verify.core.rounding import Array
from verify.errors import ModelProblem

Operand = Tensor | NDArray[Any]
"""A tensor of the network, or a constant."""

LARGEST = 2**28
"""Elements of a single value; a model that asks for more is refused before anything is allocated."""

INTEGERS = (np.dtype(np.int8), np.dtype(np.uint8))
"""What a quantised value consists of."""


@dataclass(frozen=True)
class Node:
    """One node of the model: what a rule may look at besides its operands.

    more_roundings, more_scalings: that every term of the node's products may go through, besides those of a float32
    dot product: of the deployed network, and in float64.
    """

    operator: str
    version: int
    name: str
    attributes: dict[str, Any]
    outputs: int
    more_roundings: int = 0
    more_scalings: int = 0
    read: set[str] = field(default_factory=set)

    def attribute(self, name: str, default: Any = None) -> Any:
        """An attribute's value, or the default; the node remembers that somebody looked. Refuses NaN."""
        self.read.add(name)
        value = self.attributes.get(name, default)
        if isinstance(value, float) and math.isnan(value):
            self.refuse(f"the attribute {name} is not a number")
        return value

    def flag(self, name: str, default: int = 0) -> bool:
        """An attribute that is 0 or 1; runtimes disagree about what any other number means."""
        value = self.attribute(name, default)
        if value not in (0, 1):
            self.refuse(f"the attribute {name} is {value}, rather than 0 or 1")
        return bool(value)

    def refuse(self, finding: str) -> NoReturn:
        """Raise ModelProblem: this node is not supported, and why."""
        raise ModelProblem(f"node {self.name!r} ({self.operator}, version {self.version}): {finding}")

    def weights(self, operand: Operand | None, what: str, dtype: np.dtype[Any] = FLOAT32) -> NDArray[np.float64]:
        """A constant operand as float64; refuses one that is computed from the input or is of another type."""
        if is_computed(operand):
            self.refuse(f"{what} is computed inside the network, which is not supported here: fold it before export")
        if not isinstance(operand, np.ndarray):
            self.refuse(f"{what} must be constant, but depends on other values of the network")
        if operand.dtype != dtype:
            self.refuse(f"{what} is of type {operand.dtype}: only {dtype} is supported here")
        return operand.astype(np.float64)

    def off_by(self, roundings: int, scalings: int) -> Node:
        """The node, if constants in its products may be off by so many roundings, deployed and in float64."""
        return replace(
            self, more_roundings=self.more_roundings + roundings, more_scalings=self.more_scalings + scalings
        )

    def integers(self, operand: Operand | None, what: str) -> list[int]:
        """A constant operand, a list of integers or a single one, as a list."""
        if not isinstance(operand, np.ndarray) or operand.dtype not in (np.int32, np.int64) or operand.ndim > 1:
            self.refuse(f"{what} must be a constant list of int32 or int64")
        return [int(value) for value in operand.reshape(-1)]

    def tensor(self, operand: Operand, *, integers: bool = False) -> Tensor:
        """The operand as a tensor of the network, of float32 numbers, or also of integers of eight bits."""
        if not integers or operand.dtype not in INTEGERS:
            self._require_float32(operand)
        if isinstance(operand, Tensor):
            if operand.grid and operand.grid.dtype not in INTEGERS:
                self.refuse("an int32 constant is supported as the bias of a product only, which runtimes make of it")
            return operand
        return Tensor(Constant(operand.astype(np.float64)), (), operand.shape, self.name, operand.dtype)

    def require_size(self, shape: Sequence[int]) -> None:
        """Refuse a value of more elements than fit."""
        if min(shape, default=1) < 0 or math.prod(shape) > LARGEST:
            self.refuse(f"a value of shape {tuple(shape)} is too large")

    def dot(self, map: LinearMap, bias: Array | None, x: Tensor) -> Linear:
        """One dot product with x per output, exact if it is one of integers."""
        primitive = Linear.dot(map, bias, x.shape)
        if x.dtype != FLOAT32:
            return replace(primitive, roundings=0, additions=0)
        return replace(primitive, roundings=primitive.roundings + self.more_roundings, scalings=self.more_scalings)

    def result(
        self,
        primitive: Primitive,
        *operands: Tensor,
        shape: Shape,
        dtype: np.dtype[Any] | None = None,
        grid: Grid | None = None,
    ) -> Tensor:
        """A new tensor that this node brings about, of the operands' type if no other one is given."""
        self.require_size(shape)
        if 0 in shape:
            self.refuse(f"a value of the network of shape {tuple(shape)} is empty")
        return Tensor(primitive, operands, shape, self.name, dtype or operands[0].dtype, grid)

    def _require_float32(self, value: Operand) -> None:
        if value.dtype != np.float32:
            self.refuse(f"arithmetic in {value.dtype}: only float32 is supported")


def is_computed(operand: Operand | None) -> bool:
    """Whether it is a constant that the model computes in floats."""
    return isinstance(operand, Tensor) and not (operand.varies or operand.grid)
