"""Lower bounds of the predicted logit minus each other one: as in `verify.bounds.margins`, but in the graph."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, cast

import numpy as np

from verify.bounds.margins import last_product
from verify.compiled.linear import Error, above, nearest, rounded
from verify.compiled.writer import LIMIT, TINY, UNIT, BoundsWriter, layout_of
from verify.core.primitives import Clip, Linear, Round, Tensor
from verify.core.rounding import FLOAT32_ANY_ORDER
from verify.core.softmax import strict_margin


def predicted_margins(writer: BoundsWriter, output: Tensor, value: str, lower: str, upper: str) -> str:
    """Infinity for the predicted logit itself. value, lower, upper: of the output, samples x classes.

    Where the network ends in a matrix product W, each difference is bounded as one functional of the last features,

        z_t - z_j - (1 + theta) |w_t - w_j| r - (E_t + E_j),  E = (1 + theta) (kappa |W| M + beta),

    and then through what is done to each logit alike, as quantisation does.
    """
    count = math.prod(output.shape)
    margins = _Margins(writer, count, writer.node("ArgMax", value, axis=1, keepdims=1))
    lowest = margins.lowered(writer.node("Sub", margins.of_label(lower), upper))
    product, tail = last_product(output, count)
    if product is not None:
        apart, lowest = lowest, margins.of_functionals(product)
        for tensor in tail:
            lowest = _RULES[type(tensor.primitive)](margins, tensor, lowest)
        if tail:
            lowest = writer.node("Max", apart, lowest)
    itself = writer.node("Equal", margins.predicted, writer.ints(*range(count)))
    return writer.node("Where", itself, writer.scalar(np.inf), lowest)


def strict_margins(writer: BoundsWriter, margins: str, lower: str, upper: str, count: int) -> str:
    """Less what a final softmax of that many operands, between these bounds, needs to keep their order strict."""
    reach = writer.node("Max", writer.node("Abs", lower), writer.node("Abs", upper))
    reach = writer.node("ReduceMax", reach, writer.ints(1), keepdims=1)
    base, slope = (float(strict_margin(np.array(end), count, FLOAT32_ANY_ORDER)) for end in (0.0, 1.0))
    slack = (1 + 2.0**-10) * (slope - base), (1 + 2.0**-10) * base
    return writer.node("Sub", margins, writer.node("Add", writer.scaled(reach, slack[0]), writer.scalar(slack[1])))


@dataclass(frozen=True)
class _Margins:
    """Writes arrays of samples x classes. predicted: the number of each sample's class, samples x 1."""

    writer: BoundsWriter
    count: int
    predicted: str

    def of_label(self, name: str) -> str:
        """Of an array, the entry of each sample's class."""
        return self.writer.node("GatherElements", name, self.predicted, axis=1)

    def lowered(self, bound: str) -> str:
        """Less than the exact result of the one operation that yielded the bound."""
        writer = self.writer
        width = writer.node("Add", writer.scaled(writer.node("Abs", bound), 4 * UNIT), writer.scalar(TINY))
        return writer.node("Sub", bound, width)

    def of_functionals(self, product: Tensor) -> str:
        """Each difference as one functional of the product's operand."""
        writer, primitive = self.writer, cast(Any, product.primitive)
        (operand,) = product.operands
        logits = rounded(writer, product, writer.known[operand])
        x = writer.known[operand]
        weight = primitive.map.weight.reshape(-1, self.count)
        own, both, underflow = Error.of(primitive, x.reach)
        middle = writer.middle(x)
        centre, radius = (writer.laid_out(name, layout_of(operand.shape), weight.shape[:1]) for name in middle)
        magnitude = writer.node("Add", writer.node("Abs", centre), radius)
        factor = 1 / (1 - own)
        spread = np.broadcast_to((both * primitive.magnitude.reshape(-1) + underflow) * factor, weight.shape[1:])
        errors = above(both * (1 + both) * factor * np.abs(weight)), above(spread)
        error = writer.node("Gemm", magnitude, *map(writer.constant, errors))
        centres = writer.reshaped(logits.first, (self.count,))
        rows, label = writer.constant(nearest(weight.T)), writer.reshaped(self.predicted, ())
        row = writer.node("Unsqueeze", writer.node("Gather", rows, label), writer.ints(1))
        difference = writer.node("Abs", writer.node("Sub", row, rows))
        radius = writer.scaled(radius, float(np.float32(factor) * (1 + 2.0**-22)))
        width = writer.node("MatMul", difference, writer.node("Unsqueeze", radius, writer.ints(2)))
        slack = writer.node("Add", self.of_label(error), error)
        slack = writer.node("Add", writer.node("Squeeze", width, writer.ints(2)), slack)
        return writer.node("Sub", writer.node("Sub", self.of_label(centres), centres), slack)

    def of_clipped(self, clipped: Tensor, margins: str) -> str:
        """clip(a) - clip(b) is a - b, unless a is clipped from above, or b from below."""
        writer, primitive = self.writer, cast(Any, clipped.primitive)
        low, high = self._ends_before(clipped)
        least, largest = writer.scalar(primitive.lower), writer.scalar(primitive.upper)
        if primitive.upper < np.inf:
            margins = writer.node("Min", margins, self.lowered(writer.node("Sub", largest, high)))
        if primitive.lower > -np.inf:
            margins = writer.node("Min", margins, self.of_label(self.lowered(writer.node("Sub", low, least))))
        if primitive.upper - primitive.lower <= 4 * LIMIT:  # which no difference exceeds
            margins = writer.node("Min", margins, self.lowered(writer.node("Sub", largest, least)))
        return margins

    def of_rounded(self, tensor: Tensor, margins: str) -> str:
        """Rounding takes at most one half from either side, and leaves an integer."""
        writer = self.writer
        return writer.node("Ceil", self.lowered(writer.node("Sub", margins, writer.scalar(1.0))))

    def of_scaled(self, scaled: Tensor, margins: str) -> str:
        """s (a - b), less the rounding of both."""
        writer, primitive = self.writer, cast(Any, scaled.primitive)
        scale = primitive.map.scale.item()
        if primitive.roundings == 0 and scale == 1:
            return margins
        own, both, underflow = Error.of(primitive, writer.known[scaled.operands[0]].reach)
        constant = both * primitive.magnitude.item() + underflow
        magnitude = writer.node("Max", *(writer.node("Abs", end) for end in self._ends_before(scaled)))
        width = writer.scaled(magnitude, both * (1 + both) / (1 - own) * scale)
        width = writer.node("Add", width, writer.scalar((1 + both) / (1 - own) * constant))
        lost = writer.node("Add", width, self.of_label(width))
        return self.lowered(writer.node("Sub", writer.scaled(margins, scale), lost))

    def _ends_before(self, tensor: Tensor) -> list[str]:
        (operand,) = tensor.operands
        return [self.writer.reshaped(end, (self.count,)) for end in self.writer.ends(self.writer.known[operand])]


_RULES: Mapping[type, Callable[[_Margins, Tensor, str], str]] = {
    Clip: _Margins.of_clipped,
    Round: _Margins.of_rounded,
    Linear: _Margins.of_scaled,
}
"""How lower bounds of the margins pass an operation on each logit."""
