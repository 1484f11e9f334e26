"""Whatever attributes, constants and shapes a node has: what is read of it is what onnxruntime computes."""

from __future__ import annotations

import numpy as np
import pytest

from support.odd_cases import odd
from support.onnx_models import ALL, DISABLED, model, network_of, newest_opset_of_onnxruntime, run
from support.operator_cases import CASES, Case, cases_of
from verify.bounds.evaluation import bounds
from verify.core.intervals import Interval
from verify.core.rounding import FLOAT32_ANY_ORDER
from verify.errors import ModelProblem
from verify.model.operators import supported

OPERATORS = sorted(CASES)


def odd_case(rng: np.random.Generator) -> tuple[Case, int]:
    operator = OPERATORS[rng.integers(len(OPERATORS))]
    versions = [version for version in sorted(supported()[operator]) if version <= newest_opset_of_onnxruntime()]
    version = versions[rng.integers(len(versions))]
    cases = cases_of(operator, version)
    opset = 17 if "." in operator else max(version, 9)
    return odd(operator, cases[rng.integers(len(cases))], opset, rng)


def is_read_alike(rng: np.random.Generator) -> bool:
    """Of an odd node, whether it was read and onnxruntime runs it; fails where the two differ."""
    case, opset = odd_case(rng)
    content = model(case.nodes, case.shape, case.constants, opset=opset, outputs=case.outputs)
    try:
        network = network_of(content)
    except ModelProblem:
        return False
    x = rng.normal(size=case.shape).astype(np.float32)
    try:
        found = [run(content, x, level=level) for level in (DISABLED, ALL)]
    except Exception:  # onnxruntime's own exceptions share no base class but this: nothing runs, and nothing is wrong
        return False
    point = x[np.newaxis].astype(np.float64)
    with np.errstate(all="ignore"):
        intervals = bounds(network, Interval(point, point), FLOAT32_ANY_ORDER)
    for outputs in found:
        for actual, (lower, upper) in zip(outputs, intervals, strict=True):
            assert actual.shape == lower.shape[1:], case
            unbounded = np.isnan(lower[0]) | np.isnan(upper[0])  # nothing is claimed
            assert (unbounded | ((lower[0] <= actual) & (actual <= upper[0]))).all(), case
    return True


@pytest.mark.parametrize("seed", range(12))
def test_odd_nodes_are_read_as_onnxruntime_reads_them(seed: int) -> None:
    rng = np.random.default_rng(seed)
    assert sum(is_read_alike(rng) for _ in range(150)) >= 50
