"""Every operator, in every checked version, means to us what it means to onnxruntime."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from support.onnx_models import ALL, DISABLED, model, network_of, newest_opset_of_onnxruntime, node, run
from support.operator_cases import CASES, Case, cases_of
from verify.bounds import bounds, values
from verify.errors import ModelProblem
from verify.intervals import Interval
from verify.operators import supported
from verify.rounding import FLOAT32_ANY_ORDER

OLDEST, NEWEST = 9, newest_opset_of_onnxruntime()
REQUIRED = (
    *("Conv", "Gemm", "MatMul", "Add", "Sub", "Mul", "Div", "Neg", "BatchNormalization", "Relu", "LeakyRelu", "Clip"),
    *("MaxPool", "AveragePool", "GlobalAveragePool", "ReduceMean", "ReduceSum", "Flatten", "Reshape", "Transpose"),
    *("Squeeze", "Unsqueeze", "Concat", "Split", "Slice", "Pad", "Gather", "Identity", "Dropout", "Constant"),
    *("ConstantOfShape", "Shape"),
    *("Sigmoid", "Tanh", "Softplus", "Softsign", "Elu", "Selu", "Celu", "Erf", "Gelu", "Mish", "Swish", "HardSigmoid"),
    *("HardSwish", "Softmax", "LogSoftmax", "Exp", "Log", "Sqrt", "Reciprocal", "Pow", "Abs", "Min", "Max"),
)


def versions_of(operator: str) -> list[int]:
    """Every version of an operator that a model of opset 9 or newer can use."""
    if "." in operator:  # of another domain, with a single version
        return [1]
    history = {s.since_version for s in onnx.defs.get_all_schemas_with_history() if s.name == operator and not s.domain}
    opsets = range(max(OLDEST, min(history)), onnx.defs.onnx_opset_version() + 1)
    return sorted({max(version for version in history if version <= opset) for opset in opsets})


def all_cases() -> list[pytest.ParameterSet]:
    return [
        pytest.param(17 if "." in operator else max(version, OLDEST), case, id=f"{operator}-{version}-{index}")
        for operator in sorted(CASES)
        for version in sorted(supported()[operator] & set(versions_of(operator)))
        if version <= NEWEST
        for index, case in enumerate(cases_of(operator, version))
    ]


def test_every_operator_of_the_table_has_cases() -> None:
    assert set(CASES) == set(supported())


@pytest.mark.parametrize("operator", REQUIRED)
def test_operators_of_classifiers_are_supported_in_every_version(operator: str) -> None:
    assert set(versions_of(operator)) <= supported()[operator]


@pytest.mark.parametrize(("opset", "case"), all_cases())
def test_agrees_with_onnxruntime(opset: int, case: Case) -> None:
    content = model(case.nodes, case.shape, case.constants, opset=opset, outputs=case.outputs)
    network = network_of(content)
    x = np.random.default_rng(0).normal(size=(3, *case.shape)).astype(np.float32)
    point = x.astype(np.float64)
    exact = values(network, point)
    intervals = bounds(network, Interval(point, point), FLOAT32_ANY_ORDER)
    # Just between two integers, runtimes that round differently before may end in either.
    share = 0.95 if any(each.op_type == "QuantizeLinear" for each in case.nodes) else 1.0
    for level in (DISABLED, ALL):
        for lane in range(len(x)):
            for actual, ours, (lower, upper) in zip(run(content, x[lane], level=level), exact, intervals, strict=True):
                assert actual.shape == ours.shape[1:]
                assert (lower[lane] <= actual).all()
                assert (actual <= upper[lane]).all()
                assert (lower[lane] <= ours[lane]).all()
                assert (ours[lane] <= upper[lane]).all()
                narrow = upper[lane] - lower[lane] <= 1e-4 * (1 + np.abs(actual).max())
                assert narrow.mean() >= share


@pytest.mark.parametrize(
    ("name", "attributes", "reason"),
    [
        ("Pad", {"pads": [0, 1, 0, 1], "value": np.nan}, "not a number"),
        ("Clip", {"min": np.nan}, "not a number"),
        ("LeakyRelu", {"alpha": np.nan}, "not a number"),
        ("Clip", {"min": np.inf}, "nothing finite"),
        ("Clip", {"max": -np.inf}, "nothing finite"),
    ],
)
def test_numbers_that_are_none_are_refused(name: str, attributes: dict[str, object], reason: str) -> None:
    content = model([node(name, ["x"], "y", **attributes)], ["n", 3], {}, opset=10)
    with pytest.raises(ModelProblem, match=reason):
        network_of(content)
