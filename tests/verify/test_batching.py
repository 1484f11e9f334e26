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
