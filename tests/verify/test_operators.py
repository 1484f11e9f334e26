"""Every operator, in every checked version, means to us what it means to onnxruntime."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

from support.onnx_models import ALL, DISABLED, model, network_of, newest_opset_of_onnxruntime, node, run
from support.operator_cases import CASES, Case, cases_of
from verify.bounds.evaluation import bounds, values
from verify.core.intervals import Interval
from verify.core.rounding import FLOAT32_ANY_ORDER
from verify.errors import ModelProblem
from verify.model.operators import supported

OLDEST, NEWEST = 9, newest_opset_of_onnxruntime()
REQUIRED = (
    *("Conv", "Gemm", "MatMul", "Add", "Sub", "Mul", "Div", "Neg", "BatchNormalization", "Relu", "LeakyRelu", "Clip"),
    *("MaxPool", "AveragePool", "GlobalAveragePool", "ReduceMean", "ReduceSum", "Flatten", "Reshape", "Transpose"),
    *("Squeeze", "Unsqueeze", "Concat", "Split", "Slice", "Pad", "Gather", "Identity", "Dropout", "Constant"),
    *("ConstantOfShape", "Shape"),
    *("Sigmoid", "Tanh", "Softplus", "Softsign", "Elu", "Selu", "Celu", "Erf", "Gelu", "Mish", "Swish", "HardSigmoid"),
    *("HardSwish", "Softmax", "LogSoftmax", "Exp", "Log", "Sqrt", "Reciprocal", "Pow", "Abs", "Min", "Max"),
    *("Sin", "Cos", "Sign", "Resize", "Sum", "Mean", "Tile", "GatherElements", "GatherND", "ScatterND"),
    *("InstanceNormalization", "ReduceL1", "ReduceL2", "ReduceSumSquare"),
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


ONE, TWO, QUANTISED = np.array([1]), np.array([2]), {"s": np.float32(0.1), "z": np.uint8(0)}
CHANNELS = {name: np.ones(2, np.float32) for name in ("scale", "shift", "mean", "variance")}
AROUND = {"pads": np.array([0, 0, 0, 1, 0, 0, 0, 1]), "zero": np.float32(0)}
MISREAD: dict[str, tuple[list[onnx.NodeProto], list[int | str], dict[str, Any], int, str]] = {
    "batch statistics": (
        [onnx.helper.make_node("BatchNormalization", ["x", *CHANNELS], ["y", "m", "v", "sm", "sv"], name="b")],
        [1, 2, 3],
        CHANNELS,
        9,
        "training mode",
    ),
    "a flag of two": ([node("ReduceMean", ["x"], "y", keepdims=2)], [1, 3], {}, 13, "rather than 0 or 1"),
    "a negative flag": (
        [node("ReduceSum", ["x"], "y", noop_with_empty_axes=-1)],
        [1, 3],
        {},
        13,
        "rather than 0 or 1",
    ),
    "ceil_mode of two": (
        [node("MaxPool", ["x"], "y", kernel_shape=[2], strides=[2], ceil_mode=2)],
        [1, 1, 3],
        {},
        12,
        "rather than 0 or 1",
    ),
    "a partial window that counts": (
        [node("AveragePool", ["x"], "y", kernel_shape=[2], strides=[2], ceil_mode=1, count_include_pad=1)],
        [1, 1, 3],
        {},
        12,
        "runtimes disagree",
    ),
    "a window that starts in the padding": (
        [node("MaxPool", ["x"], "y", kernel_shape=[3], strides=[3], pads=[1, 1], ceil_mode=1)],
        [1, 1, 5],
        {},
        12,
        "runtimes disagree",
    ),
    "unequal padding that counts": (
        [node("AveragePool", ["x"], "y", kernel_shape=[2], pads=[0, 1], count_include_pad=1)],
        [1, 1, 3],
        {},
        19,
        "runtimes disagree",
    ),
    "padding in front of a mean": (
        [node("Pad", ["x", "ends"], "p"), node("AveragePool", ["p"], "y", kernel_shape=[2])],
        [1, 1, 3],
        {"ends": np.array([0, 0, 0, 0, 0, 1])},
        13,
        "that merge the two disagree",
    ),
    "a float of eight bits": (
        [
            node("Cast", ["c"], "d", to=onnx.TensorProto.FLOAT8E5M2),
            node("Cast", ["d"], "e", to=1),
            node("Add", ["x", "e"], "y"),
        ],
        [1, 3],
        {"c": np.array([100000])},
        19,
        "is not supported",
    ),
    "an average of partial windows with their padding": (
        [
            node("QuantizeLinear", ["x", "s", "z"], "q"),
            onnx.helper.make_node(
                "QLinearAveragePool",
                ["q", "s", "z", "s", "z"],
                ["r"],
                domain="com.microsoft",
                name="p",
                kernel_shape=[2],
                strides=[2],
                ceil_mode=1,
                count_include_pad=1,
            ),
            node("DequantizeLinear", ["r", "s", "z"], "y"),
        ],
        [1, 1, 3],
        QUANTISED,
        17,
        "other counts",
    ),
    "partial windows of a Pad": (
        [node("Pad", ["x", "pads", "zero"], "p"), node("AveragePool", ["p"], "y", kernel_shape=[1, 2], ceil_mode=1)],
        [1, 1, 1, 4],
        AROUND,
        13,
        "drop windows",
    ),
    "a bias for other outputs": (
        [node("Conv", ["x", "w", "b"], "y")],
        [1, 1, 3],
        {"w": np.ones((4, 1, 1), np.float32), "b": np.ones(3, np.float32)},
        13,
        "4 outputs",
    ),
    "a summand of more rows": (
        [node("Gemm", ["x", "w", "c"], "y")],
        [1, 2],
        {"w": np.ones((2, 2), np.float32), "c": np.ones((3, 2), np.float32)},
        13,
        "does not fit",
    ),
    "a missing operand": ([onnx.helper.make_node("Concat", ["x", ""], ["y"], axis=1)], [1, 3], {}, 13, "do not fit"),
    "steps of zero": (
        [node("Range", ["a", "a", "a"], "r"), node("Reshape", ["x", "r"], "y")],
        [1, 3],
        {"a": np.array(0)},
        13,
        "do not fit",
    ),
    "an endless choice": (
        [node("Gather", ["rows", "many"], "g"), node("Reshape", ["x", "g"], "y")],
        [1, 3],
        {"rows": np.zeros((2, 2**14), np.int64), "many": np.zeros(2**15, np.int64)},
        13,
        "too large",
    ),
    "a reflection of all there is": (
        [node("Pad", ["x", "pads"], "y", mode="reflect")],
        [1, 3],
        {"pads": np.array([0, 0, 0, 3])},
        13,
        "more is reflected than is there",
    ),
    "a transposed kernel of other channels": (
        [node("ConvTranspose", ["x", "kernel"], "y")],
        [1, 4, 3],
        {"kernel": np.ones((2, 4, 2), np.float32)},
        13,
        "does not fit an input",
    ),
    "a transposed convolution of no result": (
        [node("ConvTranspose", ["x", "kernel"], "y", pads=[2, 2])],
        [1, 2, 3],
        {"kernel": np.ones((2, 4, 2), np.float32)},
        13,
        "its result is empty",
    ),
    "a transposed convolution of less than no result": (
        [node("ConvTranspose", ["x", "kernel"], "y", pads=[0, 3])],
        [1, 2, 2],
        {"kernel": np.ones((2, 4, 1), np.float32)},
        13,
        "its result is empty",
    ),
    "a transposed convolution whose other end would make up for that": (
        [node("ConvTranspose", ["x", "kernel"], "y", pads=[3, 1], strides=[3], output_padding=[2])],
        [1, 2, 1],
        {"kernel": np.ones((2, 4, 2), np.float32)},
        13,
        "its result is empty",
    ),
    "pads beside auto_pad": (
        [node("ConvTranspose", ["x", "kernel"], "y", pads=[1, 0], auto_pad="VALID")],
        [1, 2, 3],
        {"kernel": np.ones((2, 4, 2), np.float32)},
        13,
        "pads beside auto_pad",
    ),
    "a transposed convolution of a given size": (
        [node("ConvTranspose", ["x", "kernel"], "y", output_shape=[5])],
        [1, 2, 3],
        {"kernel": np.ones((2, 4, 2), np.float32)},
        13,
        "follow from the shape of the output",
    ),
    "an element that is replaced twice": (
        [node("ScatterND", ["x", "at", "new"], "y")],
        [3],
        {"at": np.array([[1], [-2]]), "new": np.ones(2, np.float32)},
        13,
        "replaced twice",
    ),
    "an element that is added to": (
        [node("ScatterElements", ["x", "at", "new"], "y", reduction="add")],
        [3],
        {"at": np.array([1]), "new": np.ones(1, np.float32)},
        18,
        "reduction 'add'",
    ),
    "updates of another shape": (
        [node("ScatterND", ["x", "at", "new"], "y")],
        [3, 2],
        {"at": np.array([[1]]), "new": np.ones(1, np.float32)},
        13,
        "do not fit",
    ),
    "indices of other batches": (
        [node("GatherND", ["x", "at"], "y", batch_dims=1)],
        [2, 3],
        {"at": np.zeros((1, 1), np.int64)},
        13,
        "do not fit",
    ),
    "a sum of one operand beside a product": (
        [node("Einsum", ["x", "c"], "y", equation="ij,k->ik")],
        [2, 3],
        {"c": np.ones(4, np.float32)},
        13,
        "the sum over j",
    ),
    **{
        f"{name} over no axes": (
            [node(name, ["x", "axes"], "y", noop_with_empty_axes=1)],
            [2, 3],
            {"axes": np.zeros(0, np.int64)},
            18,
            "runtimes disagree",
        )
        for name in ("ReduceL1", "ReduceL2", "ReduceSumSquare")
    },
    **{
        f"{name} of no place": ([node(name, ["x", "at", *new], "y")], [2, 3], constants, 13, "say no place")
        for name, new, constants in (
            ("GatherND", [], {"at": np.zeros((2, 0), np.int64)}),
            ("ScatterND", ["new"], {"at": np.zeros((2, 0), np.int64), "new": np.zeros((2, 2, 3), np.float32)}),
        )
    },
    "indices of an odd type": (
        [node("GatherND", ["x", "at"], "y")],
        [2, 3],
        {"at": np.zeros((1, 1), np.int32)},
        13,
        "constants of type int64",
    ),
    "repeats of several axes": ([node("Tile", ["x", "c"], "y")], [2], {"c": np.array([[2]])}, 13, "a constant list"),
    "an upper-case index without a result": (
        [node("Einsum", ["x"], "y", equation="bA")],
        [2, 3],
        {},
        13,
        "upper-case",
    ),
    "a bias that is no list": (
        [
            node("QuantizeLinear", ["x", "s", "z"], "q"),
            onnx.helper.make_node(
                "QGemm", ["q", "s", "z", "q8", "s", "z8", "b"], ["y"], domain="com.microsoft", name="g"
            ),
        ],
        [2, 2],
        QUANTISED | {"q8": np.ones((2, 2), np.int8), "z8": np.int8(0), "b": np.ones((2, 1), np.int32)},
        17,
        "not a number for each of 2 columns",
    ),
    "a diagonal": ([node("Einsum", ["x"], "y", equation="ii->i")], [3, 3], {}, 13, "an index twice"),
    "an ellipsis": ([node("Einsum", ["x"], "y", equation="...i->i...")], [2, 3], {}, 13, "letters are"),
    "an index of two lengths": (
        [node("Einsum", ["x", "c"], "y", equation="ij,jk->ik")],
        [2, 1],
        {"c": np.ones((3, 4), np.float32)},
        13,
        "runs over 1 and over 3",
    ),
    "repeats of other axes": ([node("Tile", ["x", "c"], "y")], [2, 3], {"c": np.array([2])}, 13, "do not fit"),
    "groups that channels do not make up": (
        [node("GroupNormalization", ["x", "c", "c"], "y", num_groups=2)],
        [1, 3, 4],
        {"c": np.ones(3, np.float32)},
        21,
        "3 channels do not make up 2 groups",
    ),
    "a huge window": ([node("MaxPool", ["x"], "y", kernel_shape=[300, 300])], [1, 1, 300, 300], {}, 13, "a window of"),
}


@pytest.mark.parametrize("what", MISREAD)
def test_what_runtimes_read_otherwise_or_not_at_all_is_refused(what: str) -> None:
    nodes, shape, constants, opset, reason = MISREAD[what]
    with pytest.raises(ModelProblem, match=reason):
        network_of(model(nodes, shape, constants, opset=opset))


COPIES = {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}


@pytest.mark.parametrize(
    ("constants", "attributes", "reason"),
    [
        ({"s": np.float32([1, 2])}, COPIES | {"mode": "linear"}, "'nearest', which repeats elements, is"),
        ({"s": np.float32([1, 2])}, COPIES | {"mode": b"\xff"}, "do not fit"),
        ({"s": np.float32([1, 2])}, {"nearest_mode": "floor"}, "'asymmetric', which repeats elements, is"),
        ({"s": np.float32([1, 2])}, {"coordinate_transformation_mode": "asymmetric"}, "'floor', which repeats"),
        ({"s": np.float32([1, 2])}, COPIES | {"antialias": 1}, "antialias is not supported"),
        ({"s": np.float32([1, 2])}, COPIES | {"antialias": 2}, "rather than 0 or 1"),
        ({"s": np.float32([1, 2])}, COPIES | {"exclude_outside": 1}, "exclude_outside is not supported"),
        ({"s": np.float32([1, 2])}, COPIES | {"extrapolation_value": np.nan}, "not a number"),
        ({"l": np.array([1, 6])}, COPIES | {"keep_aspect_ratio_policy": "not_larger"}, "'stretch', which"),
        *(({"s": np.float32([1, scale])}, COPIES, "whole numbers") for scale in (0, 0.5, 1.5, -2)),
        ({"s": np.float32([1, np.nextafter(np.float32(2), np.float32(3))])}, COPIES, "whole numbers"),
        ({"s": np.float32([1, 1e30])}, COPIES, "too large"),
        ({"s": np.float32([1, 2**21])}, COPIES, "too long an axis"),
        ({"s": np.float32([2])}, COPIES, "1 factors do not fit 2 axes"),
        ({"s": np.float32([2, 2])}, COPIES | {"axes": [1, -1]}, "2 factors do not fit 2 axes"),
        ({"s": np.float32([2])}, COPIES | {"axes": [2]}, "outside an array"),
        ({"s": np.array([1, 2])}, COPIES, "only float32"),
        ({"l": np.array([1, 7])}, COPIES, "whole numbers"),
        ({"l": np.array([1, 0])}, COPIES, "whole numbers"),
        ({"l": np.array([1, 2**63 - 1])}, COPIES, "too large"),
        ({"l": np.array([6])}, COPIES, "do not fit"),
        ({"s": np.float32([1, 2]), "l": np.array([1, 6])}, COPIES, "either scales or sizes"),
        ({"s": np.float32([])}, COPIES, "either scales or sizes"),
    ],
)
def test_resizing_that_does_more_than_repeat_elements_is_refused(
    constants: dict[str, NDArray[Any]], attributes: dict[str, Any], reason: str
) -> None:
    names = ["x", "", *(name if name in constants else "" for name in ("s", "l"))]
    content = model([node("Resize", names, "y", **attributes)], [1, 3], constants, opset=18)
    with pytest.raises(ModelProblem, match=reason):
        network_of(content)


def test_scales_that_the_input_tells_are_refused() -> None:
    for opset, names in ((9, ["x", "s"]), (18, ["x", "", "s"])):
        operator = "Upsample" if opset == 9 else "Resize"
        nodes = [node("Relu", ["x"], "s"), node(operator, names, "y", **(COPIES if opset > 9 else {}))]
        with pytest.raises(ModelProblem, match="must be constant"):
            network_of(model(nodes, [1], {}, opset=opset))


def test_upsample_with_its_scales_in_an_attribute() -> None:
    """As before opset 9, which the other tests begin with."""
    content = model([node("Upsample", ["x"], "y", scales=[1.0, 1.0, 2.0, 3.0])], [1, 2, 3, 4], {}, opset=8)
    x = np.random.default_rng(0).normal(size=(1, 2, 3, 4)).astype(np.float32)
    (ours,) = values(network_of(content), x[np.newaxis].astype(np.float64))
    for level in (DISABLED, ALL):
        assert np.array_equal(run(content, x, level=level)[0], ours[0])
    for scale in (np.nan, np.inf, 2.5):
        with pytest.raises(ModelProblem, match="whole numbers"):
            network_of(model([node("Upsample", ["x"], "y", scales=[1.0, scale])], [1, 2], {}, opset=8))


def test_a_shape_that_the_file_makes_up_is_refused() -> None:
    """onnxruntime folds Shape by what the file declares, where it cannot infer another shape."""
    nodes = [
        *(node("ReduceProd", ["three"], "end", keepdims=1), node("Slice", ["x", "zero", "end", "one"], "part")),
        *(
            node("Relu", ["part"], "h"),
            node("Shape", ["h"], "shape"),
            node("Gather", ["shape", "at"], "length", axis=0),
        ),
        *(node("Cast", ["length"], "factor", to=1), node("Mul", ["h", "factor"], "y")),
    ]
    constants = {"three": np.array([1, 3]), "zero": np.array([0]), "one": np.array([1]), "at": np.array(1)}
    content = model(nodes, [1, 4], constants)
    network_of(content)
    proto = onnx.load_model_from_string(content)
    proto.graph.value_info.append(onnx.helper.make_tensor_value_info("part", 1, [1, 2]))
    with pytest.raises(ModelProblem, match="declares the shape"):
        network_of(proto.SerializeToString())


def test_names_that_look_like_those_of_known_operators_are_refused() -> None:
    operands = ["q", "s", "z", "q", "s", "z", "s", "z"]
    for domain, name in (("com", "microsoft.QLinearAdd"), ("", "com.microsoft.QLinearAdd")):
        nodes = [
            node("QuantizeLinear", ["x", "s", "z"], "q"),
            onnx.helper.make_node(name, operands, ["r"], domain=domain, name="add"),
            node("DequantizeLinear", ["r", "s", "z"], "y"),
        ]
        with pytest.raises(ModelProblem):
            network_of(model(nodes, [1, 4], QUANTISED))


def test_functions_of_a_model_are_refused() -> None:
    proto = onnx.load_model_from_string(model([node("Relu", ["x"], "y")], [1, 4], {}))
    body = [onnx.helper.make_node("Neg", ["a"], ["b"])]
    proto.functions.append(
        onnx.helper.make_function("ai.onnx", "Relu", ["a"], ["b"], body, [onnx.helper.make_opsetid("", 17)])
    )
    with pytest.raises(ModelProblem, match=r"functions of its own|not a valid"):
        network_of(proto.SerializeToString())
