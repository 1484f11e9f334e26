"""Activation functions, and other functions of single elements."""

from __future__ import annotations

import numpy as np

from verify.core import functions
from verify.core.functions import Function
from verify.core.primitives import Clip, LeakyRelu, Linear, Primitive, Sign, Softmax, Sum, Tensor
from verify.model.operators.movement import move, reduced
from verify.model.operators.node import Node, Operand
from verify.model.operators.registry import operator


def _elementwise(node: Node, x: Operand, primitive: Primitive, *, integers: bool = False) -> Tensor:
    x = node.tensor(x, integers=integers)
    return node.result(primitive, x, shape=x.shape)


def _float32(node: Node, name: str, default: float) -> float:
    """A float attribute as the deployed model holds it; refuses one that is not finite."""
    value = float(np.float32(node.attribute(name, default)))
    if not np.isfinite(value):
        node.refuse(f"the attribute {name} is not finite")
    return value


@operator("Relu", 6, 13, 14)
def relu(node: Node, x: Operand) -> Tensor:
    return _elementwise(node, x, LeakyRelu(0.0), integers=True)


@operator("LeakyRelu", 6, 16)
def leaky_relu(node: Node, x: Operand) -> Tensor:
    return _elementwise(node, x, LeakyRelu(_float32(node, "alpha", 0.01)))


@operator("PRelu", 7, 9, 16)
def prelu(node: Node, x: Operand, slope: Operand) -> Tensor:
    slopes, x = node.weights(slope, "the slope"), node.tensor(x)
    if not slopes.size or np.broadcast_shapes(slopes.shape, x.shape) != x.shape:
        node.refuse(f"slopes of shape {slopes.shape} do not fit values of shape {x.shape}")
    if (slopes == slopes.flat[0]).all():
        return _elementwise(node, x, LeakyRelu(float(slopes.flat[0])))
    # relu(x) - s relu(-x): one of the two is zero, so that the difference is what runtimes compute.
    nothing = np.zeros(())
    below = _elementwise(node, x, Linear.elementwise(-np.ones(()), nothing, roundings=0))
    below = _elementwise(node, below, LeakyRelu(0.0))
    below = _elementwise(node, below, Linear.elementwise(slopes, nothing, roundings=1))
    return node.result(Sum(-1), _elementwise(node, x, LeakyRelu(0.0)), below, shape=x.shape)


@operator("Abs", 6, 13)
def absolute(node: Node, x: Operand) -> Tensor:
    return _elementwise(node, x, LeakyRelu(-1.0))


@operator("Sign", 9, 13)
def sign(node: Node, x: Operand) -> Tensor:
    return _elementwise(node, x, Sign())


@operator("Clip", 6, 11, 12, 13)
def clip(node: Node, x: Operand, low: Operand | None = None, high: Operand | None = None) -> Tensor:
    if node.version == 6:
        lower, upper = node.attribute("min", -np.inf), node.attribute("max", np.inf)
    else:
        lower = -np.inf if low is None else node.weights(low, "the minimum", x.dtype).item()
        upper = np.inf if high is None else node.weights(high, "the maximum", x.dtype).item()
    if lower == np.inf or upper == -np.inf:
        node.refuse("a Clip that leaves nothing finite is not supported")
    return _elementwise(node, x, Clip(float(lower), float(upper)), integers=True)


def _register(name: str, versions: tuple[int, ...], function: Function) -> None:
    @operator(name, *versions)
    def rule(node: Node, x: Operand) -> Tensor:
        return _elementwise(node, x, function)


for _name, _versions, _function in (
    ("Sigmoid", (6, 13), functions.SIGMOID),
    ("Tanh", (6, 13), functions.TANH),
    ("Erf", (9, 13), functions.ERF),
    ("Softplus", (1, 22), functions.SOFTPLUS),
    ("Softsign", (1, 22), functions.SOFTSIGN),
    ("Mish", (18, 22), functions.MISH),
    ("HardSwish", (14, 22), functions.hard_swish()),
    ("Exp", (6, 13), functions.EXP),
    ("Sin", (7, 22), functions.SIN),
    ("Cos", (7, 22), functions.COS),
    ("Log", (6, 13), functions.LOG),
    ("Sqrt", (6, 13), functions.SQRT),
    ("Reciprocal", (6, 13), functions.RECIPROCAL),
):
    _register(_name, _versions, _function)


@operator("Gelu", 20)
def gelu(node: Node, x: Operand) -> Tensor:
    kind = node.attribute("approximate", b"none").decode()
    if kind not in ("none", "tanh"):
        node.refuse(f"approximate {kind!r} is not supported")
    return _elementwise(node, x, functions.gelu() if kind == "none" else functions.gelu_tanh())


@operator("Swish", 24)
def swish(node: Node, x: Operand) -> Tensor:
    alpha = _float32(node, "alpha", 1.0)
    if not alpha:
        node.refuse("alpha is zero")
    return _elementwise(node, x, functions.swish(alpha))


@operator("Elu", 6, 22)
def elu(node: Node, x: Operand) -> Tensor:
    return _elementwise(node, x, functions.exponential_linear(_float32(node, "alpha", 1.0)))


@operator("Selu", 6, 22)
def selu(node: Node, x: Operand) -> Tensor:
    alpha, gamma = (
        _float32(node, "alpha", 1.67326319217681884765625),
        _float32(node, "gamma", 1.05070102214813232421875),
    )
    return _elementwise(node, x, functions.exponential_linear(alpha, scale=gamma))


@operator("Celu", 12, 28)
def celu(node: Node, x: Operand) -> Tensor:
    alpha = _float32(node, "alpha", 1.0)
    if alpha <= 0:
        node.refuse("alpha is not positive")
    return _elementwise(node, x, functions.exponential_linear(alpha, width=alpha))


@operator("HardSigmoid", 6, 22)
def hard_sigmoid(node: Node, x: Operand) -> Tensor:
    """max(0, min(1, alpha x + beta)): a product and a sum, or one that is fused."""
    alpha, beta = (np.array(_float32(node, name, default)) for name, default in (("alpha", 0.2), ("beta", 0.5)))
    return _elementwise(node, _elementwise(node, x, Linear.elementwise(alpha, beta, roundings=2)), Clip(0.0, 1.0))


@operator("Pow", 7, 12, 13, 15)
def power(node: Node, x: Operand, exponent: Operand) -> Tensor:
    """The exponent may be of another type than the base; runtimes turn it into a float."""
    if not isinstance(exponent, np.ndarray) or (exponent.dtype.kind not in "iu" and exponent.dtype != np.float32):
        node.refuse("the exponent must be a constant number")
    values = np.unique(exponent.astype(np.float64))
    if values.size != 1 or not 0 < abs(values[0]) <= _LARGEST_EXPONENT:
        node.refuse(f"the exponents are not one number from -{_LARGEST_EXPONENT} to {_LARGEST_EXPONENT}, without 0")
    shape = np.broadcast_shapes(x.shape, exponent.shape)
    node.require_size(shape)
    return _elementwise(
        node, move(node, node.tensor(x), lambda a: np.broadcast_to(a, shape)), functions.power(float(values[0]))
    )


_LARGEST_EXPONENT = 64
"""Runtimes may multiply that often."""


def _softmax(node: Node, x: Operand, *, logarithm: bool) -> Operand:
    """Over one axis; before version 13 over all axes from the given one on, taken together."""
    x = node.tensor(x)
    axis = reduced(node.attribute("axis", -1 if node.version >= 13 else 1), len(x.shape), node)
    if node.version < 13:
        rows = move(node, x, lambda a: a.reshape(int(np.prod(a.shape[:axis], dtype=np.int64)), -1))
        return move(node, _elementwise(node, rows, Softmax(logarithm)), lambda a: a.reshape(x.shape))
    last = move(node, x, lambda a: np.moveaxis(a, axis, -1))
    return move(node, _elementwise(node, last, Softmax(logarithm)), lambda a: np.moveaxis(a, -1, axis))


@operator("Softmax", 1, 11, 13)
def softmax(node: Node, x: Operand) -> Operand:
    return _softmax(node, x, logarithm=False)


@operator("LogSoftmax", 1, 11, 13)
def log_softmax(node: Node, x: Operand) -> Operand:
    return _softmax(node, x, logarithm=True)
