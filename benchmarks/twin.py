"""A property that certainly has a counterexample, as like to a given one as can be: the same inputs and the same form.

A verifier that finds none, says nothing by finding none for the property itself.
"""

from __future__ import annotations

import math
import re
from fractions import Fraction

import numpy as np

from verify.model.network import build
from verify.model.onnx_file import parse as parse_model
from verify.proofs.properties import cases, holds
from verify.tasks.runtime import Runtime
from verify.tasks.vnnlib import parse as parse_property

_COMPARISON = re.compile(r"\(\s*(<=|>=)\s+(Y_\d+|[-+.\deE]+)\s+(Y_\d+|[-+.\deE]+)\s*\)")
_REVERSED = {"<=": ">=", ">=": "<="}


def satisfiable_twin(model: bytes, property: bytes) -> bytes:
    """A property (VNN-LIB 1.0) with every comparison of outputs reversed that is false at the centre of the box, as
    onnxruntime runs the model. Raises ValueError unless that makes the centre a counterexample."""
    network, formula = build(parse_model(model, "")), parse_property(property).formula
    case = cases(formula, math.prod(network.input.shape))[0]
    x = ((case.least.astype(np.float64) + case.largest) / 2).astype(np.float32)
    y = [Fraction(float(value)) for value in Runtime(model, network).output(x)]

    def value(operand: str) -> Fraction:
        return y[int(operand[2:])] if operand.startswith("Y_") else Fraction(operand)

    def rewritten(found: re.Match[str]) -> str:
        comparison, left, right = found.groups()
        first, second = value(left), value(right)
        true = first <= second if comparison == "<=" else first >= second
        return found[0] if true else f"({_REVERSED[comparison]} {left} {right})"

    twin = _COMPARISON.sub(rewritten, property.decode()).encode()
    point = case.point(x)
    if point is None or not holds(parse_property(twin).formula, point, y):
        raise ValueError("the property is not of a form that can be reversed")
    return twin
