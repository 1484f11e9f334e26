"""Activation functions."""

from __future__ import annotations

import numpy as np

from verify.operators.registry import Node, Operand, operator
from verify.primitives import Clip, LeakyRelu, Tensor


@operator("Relu", 6, 13, 14)
def relu(node: Node, x: Operand) -> Tensor:
    x = node.tensor(x, integers=True)
    return node.result(LeakyRelu(0.0), x, shape=x.shape)


@operator("LeakyRelu", 6, 16)
def leaky_relu(node: Node, x: Operand) -> Tensor:
    x = node.tensor(x)
    return node.result(LeakyRelu(float(np.float32(node.attribute("alpha", 0.01)))), x, shape=x.shape)


@operator("Clip", 6, 11, 12, 13)
def clip(node: Node, x: Operand, low: Operand | None = None, high: Operand | None = None) -> Tensor:
    if node.version == 6:
        lower, upper = node.attribute("min", -np.inf), node.attribute("max", np.inf)
    else:
        lower = -np.inf if low is None else node.weights(low, "the minimum", x.dtype).item()
        upper = np.inf if high is None else node.weights(high, "the maximum", x.dtype).item()
    x = node.tensor(x, integers=True)
    return node.result(Clip(float(lower), float(upper)), x, shape=x.shape)
