"""A proof for one sample holds in every batch only if the samples of a batch do not influence each other."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest

from support.onnx_models import model, network_of, node
from verify.errors import ModelProblem

W = {"w": np.random.default_rng(0).normal(size=(6, 3)).astype(np.float32)}
INT64, FLOAT = onnx.TensorProto.INT64, onnx.TensorProto.FLOAT

MIXING: dict[str, tuple[list[onnx.NodeProto], dict[str, Any]]] = {
    "mean over the batch": (
        [node("ReduceMean", ["x"], "m", axes=[0]), node("Sub", ["x", "m"], "d"), node("MatMul", ["d", "w"], "y")],
        W,
    ),
    "flattened together": ([node("Reshape", ["x", "one"], "y")], {"one": np.array([1, -1])}),
    "the other sample": (
        [node("Slice", ["x", "start", "end", "axis", "step"], "y")],
        {"start": np.array([-1]), "end": np.array([-99]), "axis": np.array([0]), "step": np.array([-1])},
    ),
    "the first sample for all": (
        [node("Gather", ["x", "zero"], "f", axis=0), node("Add", ["x", "f"], "y")],
        {"zero": np.array([0])},
    ),
    "scaled by the batch size": (
        [
            node("Shape", ["x"], "s"),
            node("Gather", ["s", "zero"], "n"),
            node("Cast", ["n"], "f", to=FLOAT),
            node("Mul", ["x", "f"], "y"),
        ],
        {"zero": np.array([0])},
    ),
    "a softmax over the batch": ([node("Softmax", ["x"], "y", axis=0)], {}),
    "transposed": ([node("Transpose", ["x"], "t"), node("Gather", ["t", "zero"], "y")], {"zero": np.array([0])}),
}


@pytest.mark.parametrize("kind", MIXING)
def test_a_model_whose_batch_matters_is_refused_unless_the_batch_is_fixed(kind: str) -> None:
    nodes, constants = MIXING[kind]
    with pytest.raises(ModelProblem, match="batch"):
        network_of(model(nodes, ["n", 6], constants))
    assert network_of(model(nodes, [2, 6], constants)).input.shape == (2, 6)


def test_shape_arithmetic_that_keeps_samples_apart_is_accepted() -> None:
    nodes = [
        node("Shape", ["x"], "s"),
        node("Gather", ["s", "first"], "n"),
        node("Unsqueeze", ["n", "zero"], "u"),
        node("Concat", ["u", "rest"], "target", axis=0),
        node("Reshape", ["x", "target"], "r"),
        node("Transpose", ["r"], "t", perm=[0, 2, 1]),
        node("Flatten", ["t"], "f"),
        node("MatMul", ["f", "w"], "y"),
    ]
    constants = W | {"first": np.array(0), "zero": np.array([0]), "rest": np.array([3, 2])}
    network = network_of(model(nodes, ["n", 6], constants))
    assert network.output.shape == (1, 3)


LONG = {"start": np.array([2]), "end": np.array([2**31]), "axis": np.array([0]), "three": np.array([3])}
LARGER: dict[str, tuple[list[onnx.NodeProto], dict[str, Any]]] = {
    "two samples apart": (
        [
            *(node("Transpose", ["x"], "t", perm=[1, 0]), node("Unsqueeze", ["t", "axis"], "u")),
            node("Conv", ["u", "w"], "c", dilations=[2], pads=[2, 2]),
            *(node("Squeeze", ["c", "axis"], "s"), node("Transpose", ["s"], "y", perm=[1, 0])),
        ],
        {"w": np.stack([np.eye(6), np.eye(6), np.eye(6)], 2).astype(np.float32), "axis": np.array([0])},
    ),
    "those from the third on": (
        [
            node("Slice", ["x", "start", "end", "axis"], "t"),
            *(node("ReduceSum", ["t", "axis"], "m", keepdims=1), node("Add", ["x", "m"], "y")),
        ],
        LONG,
    ),
    "a third of their number": (
        [
            *(node("Shape", ["x"], "s"), node("Gather", ["s", "axis"], "n", axis=0), node("Div", ["n", "three"], "m")),
            *(node("Cast", ["m"], "f", to=FLOAT), node("Add", ["x", "f"], "y")),
        ],
        LONG,
    ),
    "their number, for large inputs": (
        [
            *(node("Shape", ["x"], "s"), node("Gather", ["s", "axis"], "n", axis=0), node("Sub", ["n", "one"], "m")),
            *(node("Cast", ["m"], "f", to=FLOAT), node("Sub", ["x", "two"], "d"), node("Relu", ["d"], "r")),
            *(node("Mul", ["r", "f"], "k"), node("Add", ["x", "k"], "y")),
        ],
        {"axis": np.array([0]), "one": np.array([1]), "two": np.float32(2)},
    ),
    "their number, in small outputs": (
        [
            *(node("Shape", ["x"], "s"), node("Gather", ["s", "axis"], "n", axis=0), node("Sub", ["n", "one"], "m")),
            *(node("Cast", ["m"], "f", to=FLOAT), node("Add", ["x", "f"], "h"), node("Mul", ["h", "tiny"], "y")),
        ],
        {"axis": np.array([0]), "one": np.array([1]), "tiny": np.float32(1e-10)},
    ),
    "their sum": ([node("ReduceSum", ["x"], "y", keepdims=0)], {}),
}


@pytest.mark.parametrize("kind", LARGER)
def test_what_a_larger_batch_changes_is_refused(kind: str) -> None:
    nodes, constants = LARGER[kind]
    with pytest.raises(ModelProblem, match=r"batch|empty"):
        network_of(model(nodes, ["n", 6], constants))
