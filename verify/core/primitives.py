"""The few operations that every ONNX operator is expressed in; each abstract domain has one rule per primitive.

A network is a graph of `Tensor`s without cycles, each the result of a primitive applied to other tensors. Shapes are
those of the model for one execution (its batch axis included, of length one where the model leaves it open).

`apply` is the primitive's function over the real numbers, in float64, on arrays whose leading axis holds *lanes*:
independent executions of the model, side by side.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from types import EllipsisType
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray

from verify.core.functions import Function
from verify.core.grids import Grid
from verify.core.linear_maps import Diagonal, LinearMap
from verify.core.rounding import Array
from verify.core.windows import Window

Shape = tuple[int, ...]

Cut = tuple[EllipsisType | slice, ...]
"""Some elements of an array, along its last axes."""


FLOAT32 = np.dtype(np.float32)


@dataclass(frozen=True, eq=False)
class Tensor:
    """A value of the network that depends on its input (or is a constant that takes part in its arithmetic).

    name: the ONNX value's name, for messages. dtype: float32, or the integers that the value consists of. grid: of the
    integers that a float32 value was dequantised from, by the operation that made it.
    """

    primitive: Primitive
    operands: tuple[Tensor, ...]
    shape: Shape
    name: str
    dtype: np.dtype[Any] = FLOAT32
    grid: Grid | None = None

    @cached_property
    def varies(self) -> bool:
        """Whether the value depends on an input."""
        return isinstance(self.primitive, Input) or any(operand.varies for operand in self.operands)


_FEW_SCALINGS = 16
"""By factors of float32, so that no product of them underflows in float64."""


@dataclass(frozen=True)
class Input:
    """An input of the network."""


@dataclass(frozen=True, eq=False)
class Constant:
    """A constant: float32 numbers, or integers."""

    value: Array

    def apply(self) -> Array:
        return self.value[np.newaxis]


@dataclass(frozen=True, eq=False)
class Linear:
    """y = A x + b, with what bounds the rounding error of every way to compute it in float32; or of integers, exactly.

    bias: b, broadcastable to the output.
    magnitude: per output, at least the sum of the magnitudes that make up b (`|s| (|b| + |mu|) + |beta|` for a folded
        batch norm): cancellation inside b costs accuracy.
    roundings: the largest number of roundings that any term of the sum goes through. 0: the operation is exact, on
        integers, or because it only changes signs.
    gain: the largest factor by which the absolute error of one underflow can grow on its way to y, for inputs within
        [-1, 1].
    row_sum, offset: over every intermediate result of every way to compute y, `row_sum * max|x| + offset` bounds its
        magnitude.
    scalings: number of float64 roundings in each weight of A, and in b and magnitude relative to magnitude.
    additions: of the sum of A x, b and a fused residual, one for each term of A x among them: there are not more of
        them than that, for all terms together, and each rounds a sum of some of the terms. No term goes through more
        than `roundings - additions` others. 0 where there is no sum, or an exact one.
    """

    map: LinearMap
    bias: Array
    magnitude: Array
    roundings: int
    gain: float
    row_sum: float
    offset: float
    scalings: int = 0
    additions: int = 0

    def apply(self, x: Array) -> Array:
        return self.map(x) + self.bias

    @property
    def does_nothing(self) -> bool:
        """Whether it multiplies by one and adds zero."""
        return isinstance(self.map, Diagonal) and bool((self.map.scale == 1).all()) and not self.bias.any()

    @property
    def is_unscaled(self) -> bool:
        """Whether weights that are zero are so in the model, rather than by underflow of many factors in float64."""
        return self.scalings <= _FEW_SCALINGS

    def live_roundings(self, live: NDArray[np.bool_]) -> NDArray[np.int_]:
        """`roundings` of each element of y, or more, where all elements of x that are not live are zero: whatever the
        order, a product with zero is zero, and to add zero is exact. In a shape that broadcasts to y."""
        if not self.additions:  # what rounds is not the sum
            return np.full((1,) * live.ndim, self.roundings)
        return self.roundings - self.map.terms + self.map.live_terms(live)

    @staticmethod
    def dot(map: LinearMap, bias: Array | None, input_shape: Shape) -> Linear:
        """One dot product per output: the terms, the bias and a fused residual make `map.terms + 2` roundings."""
        bias = np.zeros(()) if bias is None else bias
        magnitude = np.abs(bias)
        offset = float(magnitude.max(initial=0.0))
        row_sum = float(map.absolute(np.ones((1, *input_shape))).max(initial=0.0))
        return Linear(
            map,
            bias,
            magnitude,
            roundings=map.terms + 2,
            gain=1.0 + map.largest + offset,
            row_sum=max(1.0, map.largest, row_sum),
            offset=offset,
            additions=map.terms + 1,
        )

    @staticmethod
    def elementwise(
        scale: Array,
        shift: Array,
        *,
        roundings: int,
        magnitude: Array | None = None,
        factor: float = 1.0,
        constant: float = 0.0,
        scalings: int = 0,
    ) -> Linear:
        """y = scale * x + shift; `factor` and `constant` bound other factors of x and other summands that intermediate
        results may hold."""
        magnitude = np.abs(shift) if magnitude is None else magnitude
        diagonal = Diagonal(scale)
        row_sum = max(1.0, factor, diagonal.largest)
        offset = max(constant, float(magnitude.max(initial=0.0)))
        gain = 1.0 + row_sum + offset
        return Linear(diagonal, shift, magnitude, roundings, gain, row_sum, offset, scalings)

    def then(self, scale: Linear) -> Linear:
        """This map followed by an elementwise one, as one map that bounds the rounding of both ways to compute it: one
        after the other, and folded into the weights beforehand, in float32.

        Folding multiplies the magnitudes that cancel inside the first result, so that the separate bounds would not
        cover it.
        """
        assert isinstance(scale.map, Diagonal)
        factor = np.abs(scale.map.scale)
        return Linear(
            self.map.scaled(scale.map.scale),
            self.bias * scale.map.scale + scale.bias,
            self.magnitude * factor + scale.magnitude,
            roundings=self.roundings + scale.roundings + 2,
            gain=(self.gain + self.row_sum + self.offset) * scale.gain,
            row_sum=self.row_sum * scale.row_sum,
            offset=self.offset * scale.row_sum + scale.offset,
            scalings=self.scalings + scale.scalings + 4,
            additions=self.additions,
        )


@dataclass(frozen=True)
class Reshape:
    """The same elements in the same order."""

    shape: Shape

    def apply(self, x: Array) -> Array:
        return x.reshape(len(x), *self.shape)


@dataclass(frozen=True, eq=False)
class Select:
    """y.flat[i] = x.flat[index.flat[i]], or `fill` where the index is -1; index has the shape of y."""

    index: NDArray[np.intp]
    fill: float = 0.0

    def apply(self, x: Array) -> Array:
        flat = x.reshape(len(x), -1)
        if self.pads:
            flat = np.concatenate([flat, np.full((len(x), 1), self.fill)], axis=1)
        return flat[:, self.index]

    @cached_property
    def pads(self) -> bool:
        """Whether any element is `fill`."""
        return bool((self.index < 0).any())

    @cached_property
    def repeats(self) -> bool:
        """Whether any element of x is taken several times."""
        taken = self.index[self.index >= 0]
        return len(np.unique(taken)) < taken.size

    @cached_property
    def uses(self) -> tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.intp]]:
        """The elements of y that are elements of x, in the order of these; which elements of x those are; and where in
        that order the uses of each begin."""
        index = self.index.reshape(-1)
        order = np.argsort(index, kind="stable")[np.count_nonzero(index < 0) :]
        taken, first = np.unique(index[order], return_index=True)
        return order, taken, first

    @cached_property
    def is_permutation(self) -> bool:
        """Whether y holds as many elements of x as it has, from the first one on, each exactly once."""
        return np.array_equal(np.sort(self.index, axis=None), np.arange(self.index.size))


@dataclass(frozen=True)
class Subsample:
    """Every so many elements along the spatial axes: those in a window of a single element, zeros in its padding; which
    is negative where elements at the ends are left out."""

    window: Window

    def places(self, shape: Shape) -> tuple[Cut, Cut]:
        """Where the elements that are taken lie in an operand of that shape, and where in the result."""
        spatial = shape[len(shape) - len(self.window.kernel) :]
        taken, put = [], []
        axes = zip(spatial, self.window.output(spatial), self.window.begin, self.window.strides, strict=True)
        for size, count, begin, stride in axes:
            first, stop = max(0, -(-begin // stride)), min(count, (size - 1 + begin) // stride + 1)
            put.append(slice(first, max(first, stop)))
            start = first * stride - begin
            taken.append(slice(start, start + (stop - first - 1) * stride + 1 if stop > first else start, stride))
        return (..., *taken), (..., *put)

    def apply(self, x: Array) -> Array:
        taken, put = self.places(x.shape)
        leading = x.shape[: x.ndim - len(self.window.kernel)]
        result = np.zeros((*leading, *self.window.output(x.shape[len(leading) :])))
        result[put] = x[taken]
        return result


@dataclass(frozen=True)
class Concatenate:
    """The operands joined along an axis."""

    axis: int

    def apply(self, *operands: Array) -> Array:
        lanes = max(len(x) for x in operands)  # a constant has one lane, whatever the others have
        return np.concatenate([np.broadcast_to(x, (lanes, *x.shape[1:])) for x in operands], axis=self.axis + 1)


@dataclass(frozen=True)
class Clip:
    """y = min(max(x, lower), upper)."""

    lower: float
    upper: float

    def apply(self, x: Array) -> Array:
        return np.minimum(np.maximum(x, self.lower), self.upper)


@dataclass(frozen=True)
class Round:
    """y = the integer nearest to x, the even one of two; x is a float32 number."""

    def apply(self, x: Array) -> Array:
        return np.rint(x.astype(np.float32)).astype(np.float64)


@dataclass(frozen=True)
class Sign:
    """y = -1, 0 or 1, as x is negative, zero or positive."""

    def apply(self, x: Array) -> Array:
        return np.sign(x)


@dataclass(frozen=True)
class MaxPool:
    """The largest element of each window; the window's own padding never wins.

    padding: constants that surround x beforehand. A runtime may merge them into the window, where they do not win
    either, so that with and without them are both the network's values.
    """

    window: Window
    padding: Select | None = None

    def places(self, shape: Shape) -> NDArray[np.intp]:
        """For each tap and window, the number of the element under it in an operand of that shape; -1 in the window's
        own padding: taps x windows."""
        numbers = np.arange(math.prod(shape), dtype=np.float64).reshape(shape)
        taps = list(self.window.taps(numbers, -1.0))
        return np.stack(taps).reshape(len(taps), -1).astype(np.intp)

    def apply(self, x: Array) -> Array:
        x = self.padding.apply(x) if self.padding else x
        taps = self.window.taps(x, -np.inf)
        result = next(taps).copy()
        for tap in taps:
            np.maximum(result, tap, out=result)
        return result


@dataclass(frozen=True)
class LeakyRelu:
    """y = x for x >= 0, slope * x otherwise; slope 0 is the ReLU."""

    slope: float

    def apply(self, x: Array) -> Array:
        return np.maximum(x, 0.0) if self.slope == 0 else np.where(x >= 0, x, self.slope * x)


@dataclass(frozen=True)
class Softmax:
    """y = exp(x) / sum exp(x), or its logarithm, over the last axis."""

    logarithm: bool

    def apply(self, x: Array) -> Array:
        shifted = x - x.max(axis=-1, keepdims=True)
        powers = np.exp(shifted)
        total = powers.sum(axis=-1, keepdims=True)
        return np.asarray(shifted - np.log(total) if self.logarithm else powers / total)


@dataclass(frozen=True)
class Sum:
    """y = a + sign * b, for operands of one shape.

    fused_roundings: for each operand, how many more roundings the *other* one meets when a runtime adds it inside the
    operand's own dot product, or multiplies both before it adds them (0: it does nothing of the kind).
    """

    sign: int
    fused_roundings: tuple[int, int] = (0, 0)

    def apply(self, a: Array, b: Array) -> Array:
        return a + self.sign * b


@dataclass(frozen=True)
class Difference:
    """y = a - b, the real number: no runtime computes it, but by its sign a maximum is one or the other."""

    def apply(self, a: Array, b: Array) -> Array:
        return a - b


@dataclass(frozen=True)
class Maximum:
    """y = max(a, b) = b + relu(a - b), of the operands b, relu(a - b) and a."""

    def apply(self, b: Array, excess: Array, a: Array) -> Array:
        return np.maximum(a, b)


@dataclass(frozen=True)
class Product:
    """y = a * b, for operands of as many axes each, which broadcast to the shape of y; axes of length one repeat."""

    def apply(self, a: Array, b: Array) -> Array:
        return a * b


@dataclass(frozen=True)
class Quotient:
    """y = a / b, for operands of one shape."""

    def apply(self, a: Array, b: Array) -> Array:
        return a / b


@dataclass(frozen=True, eq=False)
class Variance:
    """y = v, of the operands v and x: the variance v = A (x - m)^2 of x with mean m, plus a constant, computed in
    whatever way (`verify.model.variances`).

    map: A. roundings: of A x^2, what the other ways are off by at most.
    """

    map: LinearMap
    roundings: int

    def apply(self, v: Array, x: Array) -> Array:
        return v


Primitive = (
    Input
    | Constant
    | Linear
    | Reshape
    | Select
    | Subsample
    | Concatenate
    | Clip
    | Round
    | Sign
    | MaxPool
    | LeakyRelu
    | Function
    | Softmax
    | Sum
    | Difference
    | Maximum
    | Product
    | Quotient
    | Variance
)

POINT_RULES = {kind: kind.apply for kind in get_args(Primitive) if kind is not Input}
"""The domain of points: what the network computes over the real numbers, in float64 (so: nearly)."""


def topological(outputs: Iterable[Tensor]) -> Iterator[Tensor]:
    """Every tensor that the outputs depend on, each after its operands; iterative, so that deep graphs are no limit."""
    seen: set[Tensor] = set()
    stack = [(tensor, False) for tensor in reversed(list(outputs))]
    while stack:
        tensor, ready = stack.pop()
        if ready:
            yield tensor
        elif tensor not in seen:
            seen.add(tensor)
            stack.append((tensor, True))
            stack.extend((operand, False) for operand in reversed(tensor.operands) if operand not in seen)


def rewritten(outputs: tuple[Tensor, ...], rule: Callable[[Tensor], Tensor]) -> tuple[Tensor, ...]:
    """The network rebuilt from its inputs on, each tensor passed through the rule once its operands are rebuilt."""
    rebuilt: dict[Tensor, Tensor] = {}
    for tensor in topological(outputs):
        operands = tuple(rebuilt[operand] for operand in tensor.operands)
        rebuilt[tensor] = rule(tensor if operands == tensor.operands else replace(tensor, operands=operands))
    return tuple(rebuilt[output] for output in outputs)


def uses(outputs: Iterable[Tensor]) -> Counter[Tensor]:
    """How often each tensor is an operand or an output."""
    outputs = list(outputs)
    counts = Counter(outputs)
    for tensor in topological(outputs):
        counts.update(tensor.operands)
    return counts
