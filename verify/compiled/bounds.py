"""Bounds compiled to ONNX: from a network to a graph that bounds it wherever a float32 runtime runs.

The graph takes samples `x` and radii `eps` and yields the network's `logits` at x, intervals `lower`, `upper` of the
logits over the box, lower bounds `margins` of the predicted logit minus each other one, and whether every margin is
positive: `certified`. It propagates intervals as `intervals` does, but in float32, under any order of summation, so
that its own rounding is as large as the deployed network's; both are bounded together. With u = 2^-24, n terms per
sum and `k` roundings in the deployed operation, an interval c +- r of magnitude M passes through y = A x + b as

    centre  z = A c + b                              computed in float32
    radius  s = (1 + theta) |A| (r + kappa M) + beta   rounded up: weights beforehand, sums by theta

where kappa = kappa(k + n + 32) covers the deployed roundings, those of z, and a few elementwise ones before and after;
1 + theta = 1 / (1 - kappa(n + 32)) what the float32 sum of s itself may lose; beta = kappa m + underflow, for the
magnitude m of b. Then y, and 8 u (|z| + s) around it, lie in z +- s. A ReLU turns this into 0 <= u - 2 h <= y <= u with

    u = relu(z + s),  h = min(u / 2, s).

Overflow is ruled out beforehand, by static bounds of every intermediate result; where those grow too large the graph
looks at the values, and certifies nothing if they are too large.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper

from verify.boxes import InputRange
from verify.compiled.functions import WRITTEN
from verify.errors import ModelProblem
from verify.functions import SAFETY, Function
from verify.linear_maps import Convolution, Dense, Diagonal, LinearMap, Reduction, Scaled
from verify.margins import classes, logits_of
from verify.network import Network
from verify.onnx_graph import GraphWriter
from verify.primitives import (
    Clip,
    Concatenate,
    Constant,
    Input,
    LeakyRelu,
    Linear,
    MaxPool,
    Product,
    Reshape,
    Select,
    Shape,
    Sum,
    Tensor,
    topological,
)
from verify.rounding import FLOAT32_ANY_ORDER, Array, kappa
from verify.softmax import strict_margin
from verify.version import __version__

OPSET = 18
IR_VERSION = 10
_UNIT, _UNDERFLOW = FLOAT32_ANY_ORDER.unit, FLOAT32_ANY_ORDER.underflow
_SPARE = 32
"""Roundings that every linear operation has room for, besides its own and the deployed ones."""
_TINY = 2.0**-140
"""More than a few float32 operations can lose to underflow."""
_LIMIT = 2.0**100
"""What static bounds of intermediate results must stay below; far enough from overflow for every factor that a few
operations may add."""
_LARGEST_WEIGHT = 2.0**120
"""Of weights, and of what is made of them for the radii."""
_UNBOUNDED_INPUT = 2.0**30
"""The largest sum of magnitudes of an input of a network that has no input range."""


@dataclass(frozen=True)
class Bounded:
    """What the graph holds of a tensor, for every sample.

    value: the network's value at the sample. first, second: bounds over the box, in the class's terms.
    reach: a static bound of the magnitudes of all three.
    """

    value: str
    first: str
    second: str
    reach: float


class Midpoint(Bounded):
    """first -+ second, with room for 8 u (|first| + |second|)."""


class Rectified(Bounded):
    """From first - 2 second to first, and not negative."""


class Ends(Bounded):
    """From first to second."""


_Form = TypeVar("_Form", bound=Bounded)


def compile_bounds(network: Network, input_range: InputRange | None) -> onnx.ModelProto:
    """The graph described above, for a classifier; logits are the operands of a final softmax, where there is one.

    Its inputs, float32: `x`, any number of samples; `eps`, one radius for all of them. The box
    holds every float32 input within eps of x, in each coordinate, and within the input range. Raises ModelProblem for a
    network that the graph cannot be made for.
    """
    count = classes(network)
    output = logits_of(network)
    writer = _BoundsWriter(output, input_range)
    logits = writer.known[output]
    value, lower, upper = (writer.reshaped(name, (count,)) for name in (logits.value, *writer.ends(logits)))
    margins = writer.margins(output, value, lower, upper)
    if output is not network.output:
        margins = writer.strict(margins, lower, upper, count)
    positive = writer.every(writer.node("Greater", margins, writer.scalar(0.0)), count)
    safe = writer.safe()
    row = writer.node("Unsqueeze", safe, writer.ints(1))
    bottom, top = writer.scalar(-np.inf), writer.scalar(np.inf)
    writer.node("Identity", value, output="logits")
    writer.node("Where", row, lower, bottom, output="lower")
    writer.node("Where", row, upper, top, output="upper")
    writer.node("Where", row, margins, bottom, output="margins")
    writer.node("And", safe, positive, output="certified")
    info = helper.make_tensor_value_info
    return writer.model(
        "bounds",
        [
            info("x", TensorProto.FLOAT, ["n", *_layout(network.input.shape)]),
            info("eps", TensorProto.FLOAT, []),
        ],
        [
            *(info(name, TensorProto.FLOAT, ["n", count]) for name in ("logits", "lower", "upper", "margins")),
            info("certified", TensorProto.BOOL, ["n"]),
        ],
        opset=OPSET,
        ir_version=IR_VERSION,
        metadata={
            "adcert.bounds_of": network.sha256,
            "adcert.contract": FLOAT32_ANY_ORDER.name,
            "adcert.version": __version__,
        },
    )


class _BoundsWriter(GraphWriter):
    """The rules: how what the graph holds of a tensor follows from what it holds of its operands.

    A value's layout in the graph is that of the network, with the samples as its first axis in place of the network's
    batch axis of one (or before its first axis, where that is something else).
    """

    def __init__(self, output: Tensor, input_range: InputRange | None) -> None:
        super().__init__()
        self.known: dict[Tensor, Bounded] = {}
        self._input_range = input_range
        self._safe: list[str] = []
        for tensor in topological([output]):
            rule = _RULES.get(type(tensor.primitive))
            if rule is None:
                kind = type(tensor.primitive).__name__.lower()
                raise ModelProblem(f"node {tensor.name!r}: bounds of a {kind} cannot be compiled to ONNX")
            self.known[tensor] = rule(self, tensor, *(self.known[operand] for operand in tensor.operands))

    # Constants and shapes

    def scalar(self, value: float) -> str:
        return self.constant(np.array(value, np.float32))

    def ints(self, *values: int) -> str:
        return self.constant(np.array(values, np.int64))

    def reshaped(self, name: str, layout: Shape) -> str:
        return self.node("Reshape", name, self.ints(-1, *layout))

    def _laid_out(self, name: str, layout: Shape, wanted: Shape) -> str:
        return name if layout == wanted else self.reshaped(name, wanted)

    def _scaled(self, name: str, factor: float) -> str:
        return self.node("Mul", name, self.scalar(factor))

    # Bounds in other forms

    def middle(self, x: Bounded) -> tuple[str, str]:
        """Centre and radius; the radius may be too small by 4 u times the magnitude."""
        if isinstance(x, Midpoint):
            return x.first, x.second
        if isinstance(x, Rectified):
            return self.node("Sub", x.first, x.second), x.second
        total, difference = self.node("Add", x.first, x.second), self.node("Sub", x.second, x.first)
        return self._scaled(total, 0.5), self._scaled(difference, 0.5)

    def ends(self, x: Bounded) -> tuple[str, str]:
        """The lower and the upper end."""
        if isinstance(x, Midpoint):
            return self.node("Sub", x.first, x.second), self.node("Add", x.first, x.second)
        if isinstance(x, Rectified):
            return self.node("Sub", x.first, self.node("Add", x.second, x.second)), x.first
        return x.first, x.second

    def _outward(self, value: str, lower: str, upper: str, reach: float) -> Ends:
        """Ends widened by what one deployed rounding, and a few of the graph's own, can change."""

        def width(end: str) -> str:
            return self.node("Add", self._scaled(self.node("Abs", end), 8 * _UNIT), self.scalar(_TINY))

        first, second = self.node("Sub", lower, width(lower)), self.node("Add", upper, width(upper))
        return Ends(value, first, second, reach * (1 + 2.0**-10) + _TINY)

    def _within(self, x: _Form, limit: float, shape: Shape) -> _Form:
        """The same bounds; the graph makes sure that they stay below the limit, unless that is known."""
        if x.reach <= limit:
            return x
        if limit < 1:
            raise ModelProblem("the weights are too large for bounds in float32: a sum might overflow")
        for end in (x.value, *self.ends(x)):
            small = self.node("Less", self.node("Abs", end), self.scalar(limit * (1 - 2.0**-20)))
            self._safe.append(self.every(small, math.prod(shape)))
        return replace(x, reach=limit)

    def every(self, conditions: str, count: int) -> str:
        """For each sample: do all of its `count` conditions hold? Comparisons with NaN do not, whereas runtimes pass
        over it when they look for the largest number."""
        flat = self.reshaped(self.node("Cast", conditions, to=TensorProto.INT32), (count,))
        return self.node("Cast", self.node("ReduceMin", flat, self.ints(1), keepdims=0), to=TensorProto.BOOL)

    def safe(self) -> str:
        """For each sample: are all values so small that what is said of them holds?"""
        result, *others = self._safe
        for other in others:
            result = self.node("And", result, other)
        return result

    # Rules: one per primitive

    def input(self, tensor: Tensor) -> Bounded:
        """x -+ eps, within the input range: subtraction rounds to nearest, so that no float32 number within eps of x
        is lost."""
        lower, upper = self.node("Sub", "x", "eps"), self.node("Add", "x", "eps")
        reach = np.inf
        if self._input_range:
            low, high = (float(np.float32(end)) for end in self._input_range)
            lower, upper = self.node("Max", lower, self.scalar(low)), self.node("Min", upper, self.scalar(high))
            reach = max(abs(low), abs(high))
        ordered = self.node("And", self.node("LessOrEqual", lower, "x"), self.node("LessOrEqual", "x", upper))
        self._safe.append(self.every(ordered, math.prod(tensor.shape)))
        return self._within(Ends("x", lower, upper, reach), _UNBOUNDED_INPUT, tensor.shape)

    def constant_tensor(self, tensor: Tensor) -> Bounded:
        """A float32 number is itself."""
        primitive: Any = tensor.primitive
        value: Array = primitive.value
        name = self.constant(value.reshape(1, *_layout(tensor.shape)).astype(np.float32))
        return Ends(name, name, name, float(np.abs(value).max(initial=0.0)))

    def linear(self, tensor: Tensor, x: Bounded) -> Midpoint:
        """As derived above. The static bound: |z| + s <= (1 + 8 kappa) (|A| M + m) + underflow."""
        primitive: Any = tensor.primitive
        assert isinstance(primitive, Linear)
        (operand,) = tensor.operands
        terms = primitive.map.terms + primitive.scalings + _SPARE
        own, both = kappa(terms, _UNIT), kappa(terms + primitive.roundings, _UNIT)
        if both > 0.25:
            raise ModelProblem(f"node {tensor.name!r}: a sum of {primitive.map.terms} terms is too long for float32")
        x = self.known[operand] = self._within(x, (_LIMIT - primitive.offset) / primitive.row_sum, operand.shape)
        centre, radius = self.middle(x)
        # (1 + kappa) (r + kappa |c|) is at least r + kappa M, and M the upper end where that is known.
        reach = x.first if isinstance(x, Rectified) else self.node("Abs", centre)
        radius = self.node("Add", radius, self._scaled(reach, both))
        factor = (1 + both) / (1 - own)
        underflow = 4 * terms * primitive.gain * _UNDERFLOW * (1 + x.reach)
        spread = (both * primitive.magnitude + underflow) * factor
        value, centre = self._applied_to_both(x.value, centre, tensor)
        return Midpoint(
            value,
            centre,
            self._applied(primitive.map.absolute.scaled(np.array(factor)), radius, spread, tensor, _above),
            reach=(primitive.row_sum * max(x.reach, 1.0) + primitive.offset) * (1 + 8 * both) + underflow,
        )

    def _applied_to_both(self, first: str, second: str, tensor: Tensor) -> tuple[str, str]:
        """A x + b for two values. A product of vectors and a matrix takes them as one batch: reading a large matrix
        costs more than multiplying with it."""
        primitive: Any = tensor.primitive
        map, bias = primitive.map, primitive.bias
        if not (isinstance(map, Dense) and len(_layout(tensor.operands[0].shape)) == len(_layout(tensor.shape)) == 1):
            return (
                self._applied(map, first, bias, tensor, _nearest),
                self._applied(map, second, bias, tensor, _nearest),
            )
        result = self._applied(map, self.node("Concat", first, second, axis=0), bias, tensor, _nearest)
        halves = self.node("Reshape", result, self.ints(2, -1, *_layout(tensor.shape)))
        parts = [self.node("Gather", halves, self.constant(np.array(index)), axis=0) for index in (0, 1)]
        return parts[0], parts[1]

    def _applied(self, map: LinearMap, x: str, bias: Array, tensor: Tensor, rounded: _Rounding) -> str:
        """A x + b, for weights rounded to float32."""
        shape, (inside,) = tensor.shape, (operand.shape for operand in tensor.operands)
        layout, wanted = _layout(inside), _layout(shape)
        if isinstance(map, Scaled):
            plain = self._applied(map.map, x, np.zeros(()), tensor, rounded)
            return self._shifted(
                self.node("Mul", plain, self._broadcast(map.scale, shape, rounded)), bias, shape, rounded
            )
        if isinstance(map, Diagonal):
            scaled = x if (map.scale == 1).all() else self.node("Mul", x, self._broadcast(map.scale, shape, rounded))
            return self._shifted(scaled, bias, shape, rounded)
        if isinstance(map, Convolution):
            window, axes = map.window, len(map.window.kernel)
            channel = np.broadcast_to(bias, np.broadcast_shapes(bias.shape, (len(map.weight), *[1] * axes)))
            operands = [self._laid_out(x, layout, inside[-axes - 1 :]), self.constant(rounded(map.weight))]
            folded = channel.size == len(map.weight)
            if folded and bias.any():
                operands.append(self.constant(rounded(channel.reshape(-1))))
            result = self.node(
                "Conv",
                *operands,
                group=map.groups,
                strides=window.strides,
                dilations=window.dilations,
                pads=(*window.begin, *window.end),
            )
            result = self._laid_out(result, shape[-axes - 1 :], wanted)
            return result if folded else self._shifted(result, bias, shape, rounded)
        if isinstance(map, Reduction):
            whole = self._laid_out(x, layout, inside)
            total = self.node("ReduceSum", whole, self.ints(*(axis + 1 for axis in map.axes)), keepdims=1)
            return self._shifted(self._laid_out(total, shape, wanted), bias, shape, rounded)
        assert isinstance(map, Dense)
        if len(layout) == len(wanted) == 1 and map.weight.ndim == 2:
            vector = np.broadcast_to(bias.reshape(-1), map.weight.shape[-1:])
            return self.node("Gemm", x, self.constant(rounded(map.weight)), self.constant(rounded(vector)))
        product = self.node("MatMul", self._laid_out(x, layout, inside), self.constant(rounded(map.weight)))
        return self._shifted(self._laid_out(product, shape, wanted), bias, shape, rounded)

    def _broadcast(self, value: Array, shape: Shape, rounded: _Rounding) -> str:
        """A constant that broadcasts against values of that shape, in their layout."""
        return self.constant(rounded(value[0] if value.ndim > len(_layout(shape)) else value))

    def _shifted(self, x: str, bias: Array, shape: Shape, rounded: _Rounding) -> str:
        return self.node("Add", x, self._broadcast(bias, shape, rounded)) if bias.any() else x

    def leaky_relu(self, tensor: Tensor, x: Bounded) -> Bounded:
        """ReLU: as derived above. u / 2 is rounded up, so that u - 2 h is not above zero where the network is zero."""
        primitive: Any = tensor.primitive
        if primitive.slope != 0:
            limit = _LIMIT / max(1.0, abs(primitive.slope))
            return self._two_slopes(self._within(x, limit, tensor.shape), primitive.slope)
        value = self.node("Relu", x.value)
        if isinstance(x, Rectified):
            return replace(x, value=value)
        if isinstance(x, Ends):
            return Ends(value, self.node("Relu", x.first), self.node("Relu", x.second), x.reach)
        upper = self.node("Relu", self.node("Add", x.first, x.second))
        half = self._scaled(upper, float(np.nextafter(np.float32(0.5), np.float32(1))))
        return Rectified(value, upper, self.node("Min", half, x.second), x.reach)

    def _two_slopes(self, x: Bounded, slope: float) -> Ends:
        """Monotone for a positive slope; for a negative one, zero at zero and larger everywhere else."""

        def leaky(name: str) -> str:
            return self.node("LeakyRelu", name, alpha=slope)

        lower, upper = self.ends(x)
        if slope > 0:
            ends = leaky(lower), leaky(upper)
        else:
            negative = self.node("Min", upper, self.scalar(0.0))
            ends = (
                self.node("Max", self.node("Relu", lower), leaky(negative)),
                self.node("Max", leaky(lower), leaky(upper)),
            )
        return self._outward(leaky(x.value), *ends, x.reach * max(1.0, abs(slope)))

    def function(self, tensor: Tensor, x: Bounded) -> Ends:
        """Extremes lie at the ends and where the function turns. The deployed error, and once more the same for what
        the graph computes itself; a subnormal argument counts as anything between zero and the normal numbers."""
        primitive = tensor.primitive
        assert isinstance(primitive, Function)
        limit, result = _largest_argument(primitive, x.reach)
        write = WRITTEN.get(primitive.name)
        if write is None or not limit:
            raise ModelProblem(f"node {tensor.name!r}: bounds of {primitive.name} cannot be compiled to ONNX")
        x = self._within(x, limit, tensor.shape)
        lower, upper = self.ends(x)
        value, *at_ends = (write(self, name, *primitive.parameters) for name in (x.value, lower, upper))
        least, greatest = self.node("Min", *at_ends), self.node("Max", *at_ends)
        for turn in primitive.turns:
            place, there = np.float32(turn), self.scalar(float(primitive.real(np.asarray(turn))))
            before, after = (self.scalar(float(np.nextafter(place, np.float32(way)))) for way in (-np.inf, np.inf))
            inside = self.node("And", self.node("Less", lower, after), self.node("Less", before, upper))
            least = self.node("Where", inside, self.node("Min", least, there), least)
            greatest = self.node("Where", inside, self.node("Max", greatest, there), greatest)
        share = 2.0 * SAFETY * primitive.accuracy.measured * _UNIT * (1 + 2.0**-10)
        normal = _UNDERFLOW * 2.0**24
        near_zero = primitive.real(np.array([-normal, 0.0, normal]))
        constant = share * primitive.accuracy.absolute + 4.0 * (normal + float(np.ptp(near_zero)))
        argument = self.node("Max", self.node("Abs", lower), self.node("Abs", upper))

        def width(end: str) -> str:
            total = self.scalar(constant)
            if relative := primitive.accuracy.relative:
                total = self.node("Add", total, self._scaled(self.node("Abs", end), share * relative))
            if proportional := primitive.accuracy.proportional:
                total = self.node("Add", total, self._scaled(argument, share * proportional))
            return total

        ends = self.node("Sub", least, width(least)), self.node("Add", greatest, width(greatest))
        return self._outward(value, *ends, result)

    def clip(self, tensor: Tensor, x: Bounded) -> Bounded:
        """Exact and monotone."""
        primitive: Any = tensor.primitive

        def clipped(name: str) -> str:
            if primitive.lower > -np.inf:
                name = self.node("Max", name, self.scalar(primitive.lower))
            return self.node("Min", name, self.scalar(primitive.upper)) if primitive.upper < np.inf else name

        finite = [abs(end) for end in (primitive.lower, primitive.upper) if np.isfinite(end)]
        lower, upper = self.ends(x)
        return Ends(clipped(x.value), clipped(lower), clipped(upper), max(x.reach, *finite, 0.0))

    def max_pool(self, tensor: Tensor, x: Bounded) -> Bounded:
        """Exact and monotone. Padding that a runtime may merge into the window counts for the upper end only."""
        primitive: Any = tensor.primitive
        (operand,) = tensor.operands
        window, padding = primitive.window, primitive.padding
        axes = len(window.kernel)
        padded = padding.index.shape if padding else operand.shape
        if any(pad >= kernel for pad, kernel in zip(window.begin + window.end, window.kernel * 2, strict=True)):
            raise ModelProblem(f"node {tensor.name!r}: padding as large as its window cannot be compiled")

        def pooled(name: str, fill: float) -> str:
            if padding:
                name = self._picked(name, operand.shape, padding.index, fill)
            name = self._laid_out(name, _layout(padded), padded[-axes - 1 :])
            result = self.node(
                "MaxPool",
                name,
                kernel_shape=window.kernel,
                strides=window.strides,
                dilations=window.dilations,
                pads=(*window.begin, *window.end),
            )
            return self._laid_out(result, tensor.shape[-axes - 1 :], _layout(tensor.shape))

        fill = padding.fill if padding else 0.0
        lower, upper = self.ends(x)
        lowest = float(np.finfo(np.float32).min)
        return Ends(pooled(x.value, fill), pooled(lower, lowest), pooled(upper, fill), max(x.reach, abs(fill)))

    def reshape(self, tensor: Tensor, x: Bounded) -> Bounded:
        layouts = _layout(tensor.operands[0].shape), _layout(tensor.shape)
        return _each(x, lambda name: self._laid_out(name, *layouts))

    def select(self, tensor: Tensor, x: Bounded) -> Bounded:
        primitive: Any = tensor.primitive
        (operand,) = tensor.operands
        if primitive.pads and not isinstance(x, Ends):
            x = Ends(x.value, *self.ends(x), x.reach)
        picked = _each(x, lambda name: self._picked(name, operand.shape, primitive.index, primitive.fill))
        return replace(picked, reach=max(x.reach, abs(primitive.fill)))

    def _picked(self, name: str, shape: Shape, index: NDArray[np.intp], fill: float) -> str:
        """The elements of these flat indices; `fill` for -1."""
        size = math.prod(shape)
        flat = self.reshaped(name, (size,))
        if (index < 0).any():
            flat = self.node("Pad", flat, self.ints(0, 0, 0, 1), self.scalar(fill))
            index = np.where(index < 0, size, index)
        picked = self.node("Gather", flat, self.ints(*index.reshape(-1)), axis=1)
        return self._laid_out(picked, (index.size,), _layout(index.shape))

    def concatenate(self, tensor: Tensor, *operands: Bounded) -> Bounded:
        primitive: Any = tensor.primitive
        shapes = [operand.shape for operand in tensor.operands]

        def joined(names: list[str]) -> str:
            whole = [self._laid_out(name, _layout(shape), shape) for name, shape in zip(names, shapes, strict=True)]
            whole = [
                name if operand.varies else self._repeated(name, operand.shape)
                for name, operand in zip(whole, tensor.operands, strict=True)
            ]
            return self._laid_out(
                self.node("Concat", *whole, axis=primitive.axis + 1), tensor.shape, _layout(tensor.shape)
            )

        ends = [self.ends(x) for x in operands]
        return Ends(
            joined([x.value for x in operands]),
            joined([lower for lower, _ in ends]),
            joined([upper for _, upper in ends]),
            max(x.reach for x in operands),
        )

    def _repeated(self, name: str, shape: Shape) -> str:
        """A constant once for every sample."""
        count = self.node("Shape", "x", start=0, end=1)
        return self.node("Expand", name, self.node("Concat", count, self.ints(*shape), axis=0))

    def sum(self, tensor: Tensor, a: Bounded, b: Bounded) -> Midpoint:
        """c = c_a + sign c_b, with radius (1 + kappa) (r_a + r_b) + kappa (|c_a| + |c_b|) + underflow, for the kappa of
        the dot product inside which a runtime may add an operand."""
        primitive: Any = tensor.primitive
        slack = kappa(max(primitive.fused_roundings) + _SPARE, _UNIT)
        a, b = (self._within(x, _LIMIT, tensor.shape) for x in (a, b))
        operator = "Add" if primitive.sign > 0 else "Sub"
        (first, wide), (second, broad) = self.middle(a), self.middle(b)
        radius = self._scaled(self.node("Add", wide, broad), 1 + slack)
        magnitude = self._scaled(self.node("Add", self.node("Abs", first), self.node("Abs", second)), slack)
        radius = self.node("Add", self.node("Add", radius, magnitude), self.scalar(_TINY))
        reach = (a.reach + b.reach) * (1 + 8 * slack) + _TINY
        return Midpoint(self.node(operator, a.value, b.value), self.node(operator, first, second), radius, reach)

    def product(self, tensor: Tensor, a: Bounded, b: Bounded) -> Ends:
        """The extremes are products of endpoints."""
        a, b = (self._within(x, _LIMIT**0.5, tensor.shape) for x in (a, b))
        corners = [self.node("Mul", x, y) for x in self.ends(a) for y in self.ends(b)]
        lower, upper = self.node("Min", *corners), self.node("Max", *corners)
        return self._outward(self.node("Mul", a.value, b.value), lower, upper, a.reach * b.reach)

    def margins(self, output: Tensor, value: str, lower: str, upper: str) -> str:
        """Lower bounds of the predicted logit minus each other one; infinity for itself.

        Where the network ends in a matrix product W, each difference is bounded as one functional of the last features:

            z_t - z_j - (1 + theta) |w_t - w_j| r - (E_t + E_j),  E = (1 + theta) (kappa |W| M + beta)
        """
        count = math.prod(output.shape)
        predicted = self.node("ArgMax", value, axis=1, keepdims=1)
        last = output
        while isinstance(last.primitive, Reshape):
            (last,) = last.operands
        map = last.primitive.map if isinstance(last.primitive, Linear) else None
        if isinstance(map, Dense) and map.weight.shape == (math.prod(last.operands[0].shape), count):
            margins = self._functionals(last, map.weight, predicted)
        else:
            difference = self.node("Sub", self.node("GatherElements", lower, predicted, axis=1), upper)
            margins = self._outward(value, difference, difference, np.inf).first
        itself = self.node("Equal", predicted, self.ints(*range(count)))
        return self.node("Where", itself, self.scalar(np.inf), margins)

    def strict(self, margins: str, lower: str, upper: str, count: int) -> str:
        """Less what a final softmax of that many operands needs to keep their order strict."""
        reach = self.node("Max", self.node("Abs", lower), self.node("Abs", upper))
        reach = self.node("ReduceMax", reach, self.ints(1), keepdims=1)
        base, slope = (float(strict_margin(np.array(end), count, FLOAT32_ANY_ORDER)) for end in (0.0, 1.0))
        slack = (1 + 2.0**-10) * (slope - base), (1 + 2.0**-10) * base
        return self.node("Sub", margins, self.node("Add", self._scaled(reach, slack[0]), self.scalar(slack[1])))

    def _functionals(self, last: Tensor, weight: Array, predicted: str) -> str:
        primitive: Any = last.primitive
        (operand,) = last.operands
        x = self.known[operand]
        own, both = (kappa(primitive.map.terms + _SPARE + k, _UNIT) for k in (0, primitive.roundings))
        features = (len(weight),)
        centre, radius = (self._laid_out(name, _layout(operand.shape), features) for name in self.middle(x))
        magnitude = self.node("Add", self.node("Abs", centre), radius)
        underflow = 4 * (primitive.map.terms + _SPARE) * primitive.gain * _UNDERFLOW * (1 + x.reach)
        factor = 1 / (1 - own)
        spread = np.broadcast_to((both * primitive.magnitude.reshape(-1) + underflow) * factor, weight.shape[1:])
        error = self.node(
            "Gemm",
            magnitude,
            self.constant(_above(both * (1 + both) * factor * np.abs(weight))),
            self.constant(_above(spread)),
        )
        logits = self.reshaped(self.known[last].first, weight.shape[1:])
        rows = self.constant(_nearest(weight.T))
        label = self.reshaped(predicted, ())
        difference = self.node("Sub", self.node("Unsqueeze", self.node("Gather", rows, label), self.ints(1)), rows)
        column = self.node("Unsqueeze", self._scaled(radius, float(np.float32(factor) * (1 + 2.0**-22))), self.ints(2))
        width = self.node("Squeeze", self.node("MatMul", self.node("Abs", difference), column), self.ints(2))

        def of_label(name: str) -> str:
            return self.node("GatherElements", name, predicted, axis=1)

        slack = self.node("Add", width, self.node("Add", of_label(error), error))
        return self.node("Sub", self.node("Sub", of_label(logits), logits), slack)


def _largest_argument(function: Function, reach: float) -> tuple[float, float]:
    """Up to which magnitude of arguments, at most `reach`, values of the function are far from overflow, and a bound
    of their magnitudes with that of what the graph adds to them; zero where the function is not defined around zero."""
    while True:
        with np.errstate(all="ignore"):
            lower, upper = function.enclosure(np.array(-reach), np.array(reach), FLOAT32_ANY_ORDER)
            magnitude = np.maximum(np.abs(lower), np.abs(upper))
            result = float(magnitude + 4.0 * function.error(magnitude, np.array(reach), FLOAT32_ANY_ORDER))
        if result < _LIMIT:
            return reach, result
        if reach < 1:
            return 0.0, 0.0
        reach *= 0.5


def _layout(shape: Shape) -> Shape:
    """The shape that follows the axis of samples in the graph."""
    return shape[1:] if shape[:1] == (1,) else shape


def _each(x: _Form, move: Callable[[str], str]) -> _Form:
    """The same movement of elements for the value and both parts of its bounds."""
    return replace(x, value=move(x.value), first=move(x.first), second=move(x.second))


_Rounding = Callable[[Array], NDArray[np.float32]]


def _nearest(weights: Array) -> NDArray[np.float32]:
    if np.abs(weights).max(initial=0.0) > _LARGEST_WEIGHT:
        raise ModelProblem("the weights are too large for bounds in float32: a product might overflow")
    return weights.astype(np.float32)


def _above(weights: Array) -> NDArray[np.float32]:
    nearest = _nearest(weights)
    return np.where(nearest < weights, np.nextafter(nearest, np.float32(np.inf)), nearest)


_RULES: dict[type, Callable[..., Bounded]] = {
    Input: _BoundsWriter.input,
    Constant: _BoundsWriter.constant_tensor,
    Linear: _BoundsWriter.linear,
    LeakyRelu: _BoundsWriter.leaky_relu,
    Clip: _BoundsWriter.clip,
    Function: _BoundsWriter.function,
    MaxPool: _BoundsWriter.max_pool,
    Reshape: _BoundsWriter.reshape,
    Select: _BoundsWriter.select,
    Concatenate: _BoundsWriter.concatenate,
    Sum: _BoundsWriter.sum,
    Product: _BoundsWriter.product,
}
