"""The elementwise functions of `verify.core.functions` as ONNX nodes, for graphs that compute them themselves.

The error that `functions` assumes covers an operator of its own as well as the formula that exporters write out: these
compute each function as well as a deployed network does.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from verify.compiled.onnx_graph import GraphWriter


def _operator(name: str) -> Callable[[GraphWriter, str], str]:
    return lambda graph, x: graph.node(name, x)


def _times(graph: GraphWriter, x: str, factor: float) -> str:
    return graph.node("Mul", x, graph.constant(np.array(factor, np.float32)))


def _plus(graph: GraphWriter, x: str, summand: float) -> str:
    return graph.node("Add", x, graph.constant(np.array(summand, np.float32)))


def _gelu(graph: GraphWriter, x: str, scale: float) -> str:
    gate = _plus(graph, graph.node("Erf", _times(graph, x, scale)), 1.0)
    return _times(graph, graph.node("Mul", x, gate), 0.5)


def _gelu_tanh(graph: GraphWriter, x: str, scale: float, cubic: float) -> str:
    cube = graph.node("Mul", graph.node("Mul", x, x), x)
    argument = _times(graph, graph.node("Add", x, _times(graph, cube, cubic)), scale)
    return _times(graph, graph.node("Mul", x, _plus(graph, graph.node("Tanh", argument), 1.0)), 0.5)


def _hard_swish(graph: GraphWriter, x: str, alpha: float) -> str:
    return graph.node("Mul", x, graph.node("HardSigmoid", x, alpha=alpha, beta=0.5))


def _swish(graph: GraphWriter, x: str, alpha: float) -> str:
    return graph.node("Mul", x, graph.node("Sigmoid", _times(graph, x, alpha)))


def _elu(graph: GraphWriter, x: str, alpha: float, scale: float, width: float) -> str:
    if width != 1.0:
        return graph.node("Celu", x, alpha=width)
    return graph.node("Elu", x, alpha=alpha) if scale == 1.0 else graph.node("Selu", x, alpha=alpha, gamma=scale)


def _power(graph: GraphWriter, x: str, exponent: float) -> str:
    if exponent in (0.5, -1.0):
        return graph.node("Sqrt" if exponent > 0 else "Reciprocal", x)
    return graph.node("Pow", x, graph.constant(np.array(exponent, np.float32)))


WRITTEN: Mapping[str, Callable[..., str]] = {
    **{name: _operator(name) for name in ("Sigmoid", "Tanh", "Erf", "Softplus", "Softsign", "Mish")},
    **{name: _operator(name) for name in ("Exp", "Log", "Sin", "Cos")},
    "Gelu": _gelu,
    "Gelu (tanh)": _gelu_tanh,
    "HardSwish": _hard_swish,
    "Swish": _swish,
    "Elu": _elu,
    "Pow": _power,
}
"""By the function's name: takes a graph, the name of an argument and the function's parameters, yields the name of the
value."""
