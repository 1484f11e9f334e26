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

from collections.abc import Callable

import numpy as np
import onnx
from onnx import TensorProto, helper

from verify.bounds.margins import classes, logits_of
from verify.boxes import InputRange
from verify.compiled import linear, rules, smooth
from verify.compiled.margins import predicted_margins, strict_margins
from verify.compiled.writer import Bounded, BoundsWriter, layout_of
from verify.core.functions import Function
from verify.core.primitives import (
    Clip,
    Concatenate,
    Constant,
    Input,
    LeakyRelu,
    Linear,
    MaxPool,
    Product,
    Quotient,
    Reshape,
    Round,
    Select,
    Sign,
    Softmax,
    Sum,
    Variance,
    topological,
)
from verify.core.rounding import FLOAT32_ANY_ORDER
from verify.model.network import Network
from verify.version import __version__

OPSET = 18
IR_VERSION = 10

_RULES: dict[type, Callable[..., Bounded]] = {
    Input: rules.input,
    Constant: rules.constant,
    Linear: linear.linear,
    LeakyRelu: rules.leaky_relu,
    Clip: rules.clip,
    Round: rules.round,
    Sign: rules.sign,
    Function: smooth.function,
    Softmax: smooth.softmax,
    MaxPool: rules.max_pool,
    Reshape: rules.reshape,
    Select: rules.select,
    Concatenate: rules.concatenate,
    Sum: rules.sum,
    Product: rules.product,
    Quotient: rules.quotient,
    Variance: linear.variance,
}
"""How what the graph holds of a tensor follows from what it holds of its operands."""


def compile_bounds(network: Network, input_range: InputRange | None) -> onnx.ModelProto:
    """The graph described above, for a classifier; logits are the operands of a final softmax, where there is one.

    Its inputs, float32: `x`, any number of samples; `eps`, one radius for all of them. The box
    holds every float32 input within eps of x, in each coordinate, and within the input range. Raises ModelProblem for a
    network that the graph cannot be made for.
    """
    network.require_floats("a graph of bounds")
    count = classes(network)
    output = logits_of(network)
    writer = BoundsWriter(input_range)
    for tensor in topological([output]):
        rule = _RULES[type(tensor.primitive)]
        writer.known[tensor] = rule(writer, tensor, *(writer.known[operand] for operand in tensor.operands))
    logits = writer.known[output]
    value, lower, upper = (writer.reshaped(name, (count,)) for name in (logits.value, *writer.ends(logits)))
    margins = predicted_margins(writer, output, value, lower, upper)
    if output is not network.output:
        margins = strict_margins(writer, margins, lower, upper, count)
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
            info("x", TensorProto.FLOAT, ["n", *layout_of(network.input.shape)]),
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
