"""What is no self-contained float32 network is refused in one sentence."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from support.onnx_models import model, network_of, node
from verify.errors import ModelProblem
from verify.model.network import load
from verify.tasks.runtime import Runtime


def problem_with(content: bytes) -> str:
    with pytest.raises(ModelProblem) as caught:
        network_of(content)
    sentence = str(caught.value)
    assert "\n" not in sentence
    return sentence


def changed(change: str) -> bytes:
    """A sound model with one thing wrong."""
    nodes = [node("Gemm", ["x", "w"], "h"), node("Relu", ["h"], "y")]
    proto = onnx.load_model_from_string(model(nodes, ["n", 3], {"w": np.ones((3, 2), np.float32)}))
    graph = proto.graph
    if change == "nan":
        graph.initializer[0].CopyFrom(numpy_helper.from_array(np.full((3, 2), np.nan, np.float32), "w"))
    elif change == "float64":
        graph.initializer[0].CopyFrom(numpy_helper.from_array(np.ones((3, 2)), "w"))
    elif change == "external":
        graph.initializer[0].data_location = onnx.TensorProto.EXTERNAL
        graph.initializer[0].external_data.add(key="location", value="../weights")
    elif change == "shape":
        graph.initializer[0].CopyFrom(numpy_helper.from_array(np.ones((4, 2), np.float32), "w"))
    elif change == "operators":
        graph.node[1].op_type = "Sinh"
        graph.node.append(helper.make_node("Thing", ["y"], ["z"], domain="com.example"))
        proto.opset_import.append(helper.make_opsetid("com.example", 1))
    elif change == "attribute":
        graph.node[0].op_type = "Gemm"
        graph.node[1].CopyFrom(node("Dropout", ["h", "", "training"], "y"))
        graph.initializer.append(numpy_helper.from_array(np.array(True), "training"))
    elif change == "cycle":
        graph.node[0].input[0] = "y"
    elif change == "twice":
        graph.node[1].output[0] = "h"
    elif change == "opset":
        proto.opset_import[0].version = 999
    elif change == "no opset":
        del proto.opset_import[:]
    elif change == "double input":
        graph.input[0].type.tensor_type.elem_type = onnx.TensorProto.DOUBLE
    elif change == "open axes":
        graph.input[0].type.tensor_type.shape.dim[1].dim_param = "width"
    elif change == "computed weights":
        graph.node[0].input[1] = "v"
        graph.node.insert(0, node("Tanh", ["w"], "v"))
    return bytes(proto.SerializeToString())


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ("nan", "not finite"),
        ("float64", "float64"),
        ("external", "another file"),
        ("shape", "Gemm_h"),
        ("operators", "Sinh (1x, first in node Relu_y), com.example.Thing (1x)"),
        ("attribute", "training mode"),
        ("cycle", "cycle"),
        ("twice", "valid"),
        ("opset", "opset 999"),
        ("no opset", "version"),
        ("double input", "DOUBLE"),
        ("open axes", "more than its first axis open"),
        ("computed weights", "fold them before export"),
    ],
)
def test_an_unsupported_or_invalid_model_is_named(change: str, says: str) -> None:
    assert says in problem_with(changed(change))


@pytest.mark.parametrize("content", [b"", b"not a model", b"\x08\x07", changed("")[:-40]])
def test_what_is_no_model_is_refused(content: bytes) -> None:
    problem_with(content)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelProblem, match=r"absent\.onnx"):
        load(tmp_path / "absent.onnx")


def test_nodes_may_come_in_any_order() -> None:
    proto = onnx.load_model_from_string(changed(""))
    proto.graph.node.insert(0, proto.graph.node.pop())
    network = network_of(bytes(proto.SerializeToString()))
    assert network.output.shape == (1, 2)


def test_the_hash_is_that_of_the_file(tmp_path: Path) -> None:
    import hashlib

    content = changed("")
    (tmp_path / "model.onnx").write_bytes(content)
    assert load(tmp_path / "model.onnx").sha256 == hashlib.sha256(content).hexdigest()


def test_gzip_may_have_compressed_it_and_the_hash_is_that_of_the_model(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(changed(""))
    (tmp_path / "model.onnx.gz").write_bytes(packed := gzip.compress(changed("")))
    network = load(tmp_path / "model.onnx.gz")
    assert network.sha256 == load(tmp_path / "model.onnx").sha256
    x = np.ones((1, 3), np.float32)
    np.testing.assert_array_equal(*(Runtime.of(file, network).output(x) for file in sorted(tmp_path.iterdir())))
    for damage in (packed[:-20], packed[:2], packed[:40] + bytes(40) + packed[80:]):
        (tmp_path / "damaged.onnx.gz").write_bytes(damage)
        with pytest.raises(ModelProblem, match=r"damaged\.onnx\.gz is not a gzip file, or is truncated"):
            load(tmp_path / "damaged.onnx.gz")
