"""The test cases that ship with the onnx package, as far as they use supported operators.

Somebody else wrote them, and their expected outputs. All inputs but the first one become constants.
"""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from support.onnx_models import network_of, newest_opset_of_onnxruntime, session
from verify.bounds.evaluation import bounds, values
from verify.core.intervals import Interval
from verify.core.rounding import FLOAT32_ANY_ORDER
from verify.errors import ModelProblem
from verify.model.operators import supported

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # the corpus computes overflows and divisions by zero on purpose
    from onnx.backend.test.loader import load_model_tests

    _KINDS = ("node", "simple", "pytorch-operator", "pytorch-converted")
    _CORPUS = [case for kind in _KINDS for case in load_model_tests(kind=kind)]

NEWEST = newest_opset_of_onnxruntime()

REFUSED = (
    "must be constant",
    "does not depend on the input",
    "is supported on",
    "the divisor holds a zero",
    "training mode",
    "computing float constants",
    "the exponents are not one number",
    "only float32 is supported",
    "a cast of",
    "runtimes disagree",
    "this version is not supported",
    "only FLOAT and UINT8 inputs are supported",
    "is empty",
    "is an output of its node that is not supported",
    "which repeats elements, is",
    "opset 1 is not supported",
    "holds numbers that are not finite",
    "is computed inside the network, and not accurate",
    "reduction '",
    "replaced twice",
)
"""What the corpus holds and the table of operators leaves out on purpose; any other refusal is a failure."""


def _cases() -> list[pytest.ParameterSet]:
    found = []
    for case in _CORPUS:
        proto = case.model or onnx.load(f"{case.model_dir}/model.onnx")
        if all(node.op_type in supported() for node in proto.graph.node) and proto.graph.input:
            found.append(pytest.param(case, proto, id=case.name))
    return found


def _arrays(case: Any, proto: onnx.ModelProto) -> tuple[list[Any], list[Any]]:
    """The inputs and expected outputs that a case was written with."""
    if case.data_sets:
        inputs, outputs = case.data_sets[0]
    else:
        folder = f"{case.model_dir}/test_data_set_0"
        counts = {"input": len(_inputs(proto)), "output": len(proto.graph.output)}
        inputs, outputs = ([onnx.load_tensor(f"{folder}/{k}_{i}.pb") for i in range(n)] for k, n in counts.items())
    return [_array(value) for value in inputs], [_array(value) for value in outputs]


def _array(value: Any) -> Any:
    return numpy_helper.to_array(value) if isinstance(value, onnx.TensorProto) else np.asarray(value)


def _inputs(proto: onnx.ModelProto) -> list[str]:
    initialized = {tensor.name for tensor in proto.graph.initializer}
    return [value.name for value in proto.graph.input if value.name not in initialized]


@pytest.mark.parametrize(("case", "proto"), _cases())
def test_values_and_bounds_agree_with_the_expected_outputs(case: Any, proto: onnx.ModelProto) -> None:
    (x, *others), expected = _arrays(case, proto)
    changed = onnx.ModelProto.FromString(proto.SerializeToString())
    name, *other_names = _inputs(proto)
    changed.graph.initializer.extend(map(numpy_helper.from_array, others, other_names))
    content = changed.SerializeToString()
    try:
        network = network_of(content)
    except ModelProblem as problem:
        if not any(reason in str(problem) for reason in REFUSED):
            raise
        pytest.skip(str(problem))
    point = x[np.newaxis].astype(np.float64)
    exact = values(network, point)
    intervals = bounds(network, Interval(point, point), FLOAT32_ANY_ORDER)
    for theirs, ours in zip(expected, exact, strict=False):
        assert theirs.shape == ours.shape[1:]
        np.testing.assert_allclose(ours[0], theirs, case.rtol, case.atol)  # some were written down with few digits
    if max(entry.version for entry in proto.opset_import if entry.domain in ("", "ai.onnx")) <= NEWEST:
        try:
            found = session(content).run(None, {name: x})
        except Exception as error:  # onnxruntime's own exceptions share no base class but this
            if "not supported now" not in str(error):
                raise
            pytest.skip("onnxruntime does not compute it")
        for actual, (lower, upper) in zip(found, intervals, strict=False):
            undefined = np.isnan(actual) & np.isnan(lower[0]) & np.isnan(upper[0])
            assert (undefined | ((lower[0] <= actual) & (actual <= upper[0]))).all()
