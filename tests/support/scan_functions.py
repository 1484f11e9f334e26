"""How far onnxruntime's elementwise functions are from the real ones: the figures behind `verify/core/functions.py`.

    PYTHONPATH=.:tests python tests/support/scan_functions.py --stride 8       # --stride 1: all 2^32 numbers

Prints, for every function and way to write it, the largest error over the float32 numbers in the function's domain, in
the unit of `Accuracy.measured`, where it was found, and what is allowed. The reference is the verifier's own float64
value, whose error (below 2^-40, see `tests/verify/test_functions.py`) is nothing beside the unit 2^-24.

Each number is computed in the body of a long vector, at two optimisation levels; and samples of all magnitudes in
vectors of every length from 1 to 17, where kernels take other paths.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from support.onnx_models import ALL, DISABLED, model, node, session
from verify.core import functions
from verify.core.functions import Function
from verify.core.rounding import FLOAT32_ANY_ORDER

F32 = np.float32
Floats = NDArray[np.float32]
SUBNORMAL = 2.0**-127
"""A quarter of what is allowed for subnormal results; not counted as an error of the function."""


@dataclass(frozen=True)
class Way:
    """A function, and a way to write it in ONNX, from "x" to "y"."""

    name: str
    function: Function
    nodes: list[onnx.NodeProto]
    constants: dict[str, Any] = field(default_factory=dict)
    opset: int = 20


def _op(operator: str, function: Function, opset: int = 20, **attributes: Any) -> Way:
    values = " ".join(f"{value:g}" if isinstance(value, float) else str(value) for value in attributes.values())
    return Way(f"{operator} {values}".strip(), function, [node(operator, ["x"], "y", **attributes)], opset=opset)


def _power(exponent: float) -> Way:
    nodes = [node("Pow", ["x", "p"], "y")]
    return Way(f"Pow {exponent:g}", functions.power(float(F32(exponent))), nodes, {"p": F32(exponent)})


def _swish(alpha: float) -> Way:
    nodes = [node("Mul", ["x", "a"], "s"), node("Sigmoid", ["s"], "t"), node("Mul", ["x", "t"], "y")]
    return Way(f"x sigmoid({alpha:g} x)", functions.swish(float(F32(alpha))), nodes, {"a": F32(alpha)}, 17)


def gelu_nodes() -> tuple[list[onnx.NodeProto], dict[str, Any]]:
    """Gelu as exporters wrote it before it became an operator."""
    nodes = [
        *(node("Div", ["x", "root"], "a"), node("Erf", ["a"], "b"), node("Add", ["b", "one"], "c")),
        *(node("Mul", ["x", "c"], "d"), node("Mul", ["d", "half"], "y")),
    ]
    return nodes, {"root": F32(np.sqrt(2)), "one": F32(1), "half": F32(0.5)}


def fast_gelu_nodes() -> tuple[list[onnx.NodeProto], dict[str, Any]]:
    """Its approximation by tanh, written out."""
    nodes = [
        *(node("Pow", ["x", "three"], "a"), node("Mul", ["a", "k"], "b"), node("Add", ["x", "b"], "c")),
        *(node("Mul", ["c", "root"], "d"), node("Tanh", ["d"], "e"), node("Add", ["e", "one"], "f")),
        *(node("Mul", ["x", "f"], "g"), node("Mul", ["g", "half"], "y")),
    ]
    constants = {"three": F32(3), "k": F32(0.044715), "root": F32(np.sqrt(2 / np.pi)), "one": F32(1), "half": F32(0.5)}
    return nodes, constants


def mish_nodes() -> list[onnx.NodeProto]:
    return [node("Softplus", ["x"], "s"), node("Tanh", ["s"], "t"), node("Mul", ["x", "t"], "y")]


def hard_swish_nodes() -> list[onnx.NodeProto]:
    return [node("HardSigmoid", ["x"], "t", alpha=1 / 6), node("Mul", ["x", "t"], "y")]


WAYS = [
    _op("Sigmoid", functions.SIGMOID),
    _op("Tanh", functions.TANH),
    _op("Erf", functions.ERF),
    _op("Softplus", functions.SOFTPLUS),
    _op("Softsign", functions.SOFTSIGN),
    _op("Gelu", functions.gelu()),
    Way("Gelu, written out", functions.gelu(), *gelu_nodes(), 17),
    Way("Gelu tanh, written out", functions.gelu_tanh(), *fast_gelu_nodes(), 17),
    Way("Mish, written out", functions.MISH, mish_nodes()),
    Way("HardSwish, written out", functions.hard_swish(), hard_swish_nodes()),
    _op("Gelu", functions.gelu_tanh(), approximate="tanh"),
    _op("Mish", functions.MISH),
    _op("HardSwish", functions.hard_swish()),
    *(_swish(alpha) for alpha in (1.0, 1.702, -0.7, 1e-5, 1e5)),
    *(_op("Elu", functions.exponential_linear(float(F32(alpha))), alpha=alpha) for alpha in (1.0, 0.3, 2.5, -1.0)),
    _op("Selu", functions.exponential_linear(float(F32(1.6732632)), scale=float(F32(1.050701)))),
    *(_op("Celu", functions.exponential_linear(alpha, width=alpha), alpha=alpha) for alpha in (1.0, 0.25, 4.0)),
    _op("Exp", functions.EXP),
    _op("Sin", functions.SIN),
    _op("Cos", functions.COS),
    _op("Log", functions.LOG),
    _op("Sqrt", functions.SQRT),
    _op("Reciprocal", functions.RECIPROCAL),
    *(_power(exponent) for exponent in (1, 2, 3, 4, 7, 64, -1, -2, -3, -64, 0.5, -0.5, 1.5, 2.7, 0.1, -3.3, 33.3)),
]


def numbers(stride: int, start: int = 0, chunk: int = 2**20) -> Iterator[Floats]:
    """Every `stride`-th float32 by its bits, from the `start`-th on, up to the contract's limit, in chunks."""
    for first in range(start, 2**32, chunk * stride):
        x = np.arange(first, min(2**32, first + chunk * stride), stride, dtype=np.uint32).view(F32)
        yield x[np.abs(x) < FLOAT32_ANY_ORDER.limit]


def within(function: Function, x: Floats) -> Floats:
    """The numbers of the domain whose value stays below the contract's limit; without subnormal ones, which the bounds
    treat by themselves."""
    x = x[(x == 0) | (np.abs(x) >= np.finfo(F32).tiny)]
    inside = np.zeros(x.shape, bool)
    for first, last in function.domain:
        inside |= (first <= x) & (x <= last)
    with np.errstate(all="ignore"):
        return x[inside & (np.abs(function.apply(x.astype(np.float64))) < FLOAT32_ANY_ORDER.limit)]


def largest_error(function: Function, x: Floats, y: Floats) -> tuple[float, float]:
    """The largest error in the unit of `Accuracy.measured`, infinite for what is no number; and where it is."""
    with np.errstate(all="ignore"):
        exact = function.apply(x.astype(np.float64))
        error = np.maximum(np.abs(y - exact) - SUBNORMAL, 0.0)
        scale = FLOAT32_ANY_ORDER.unit * function.accuracy.scale(np.abs(exact), np.abs(x.astype(np.float64)))
        ratio = np.where(np.isfinite(y), np.where(error == 0, 0.0, error / scale), np.inf)
    worst = int(ratio.argmax())
    return float(ratio[worst]), float(x[worst])


def measure(way: Way, stride: int, start: int = 0) -> tuple[float, float]:
    """The largest error of a way to write a function, and where it was found."""
    content = model(way.nodes, ["n"], way.constants, opset=way.opset)
    sessions = [session(content, level=level) for level in (DISABLED, ALL)]
    worst = (0.0, 0.0)
    short = np.random.default_rng(start)
    for part in numbers(stride, start):
        x = within(way.function, part)
        if not x.size:
            continue
        for oracle in sessions:
            worst = max(worst, largest_error(way.function, x, oracle.run(None, {"x": x})[0]))
            for length in range(1, 18):
                some = short.choice(x, length)
                worst = max(worst, largest_error(way.function, some, oracle.run(None, {"x": some})[0]))
    return worst


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stride", type=int, default=4096)
    parser.add_argument("--only", default="", help="functions whose name contains this")
    options = parser.parse_args()
    print(f"{'':24}{'measured':>10}{'at':>15}{'in the table':>14}{'allowed':>9}")
    for way in WAYS:
        if options.only in way.name:
            found, where = measure(way, options.stride)
            table = way.function.accuracy.measured
            print(f"{way.name:24}{found:10.3f}{where:15.6g}{table:14.2f}{functions.SAFETY * table:9.1f}", flush=True)


if __name__ == "__main__":
    main()
