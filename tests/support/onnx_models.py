"""Build small ONNX models and run them with onnxruntime, the oracle of the tests."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from verify.model.network import Network, build
from verify.model.onnx_file import parse

DISABLED = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
BASIC = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
EXTENDED = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
ALL = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL

Arrays = Mapping[str, NDArray[Any]]


def node(operator: str, inputs: Sequence[str], outputs: Sequence[str] | str, **attributes: Any) -> onnx.NodeProto:
    outputs = [outputs] if isinstance(outputs, str) else outputs
    return helper.make_node(operator, list(inputs), list(outputs), name=f"{operator}_{outputs[0]}", **attributes)


def model(
    nodes: Sequence[onnx.NodeProto],
    shape: Sequence[int | str],
    constants: Arrays,
    *,
    opset: int = 17,
    outputs: Sequence[str] = ("y",),
    metadata: Mapping[str, str] | None = None,
    taking: int = TensorProto.FLOAT,
) -> bytes:
    """A model with the input "x" of that shape and type; types and shapes of the outputs are left to be inferred."""
    graph = helper.make_graph(
        list(nodes),
        "test",
        [helper.make_tensor_value_info("x", taking, shape)],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    domains = {"": opset, **{each.domain: 1 for each in nodes if each.domain}}
    imports = [helper.make_opsetid(domain, version) for domain, version in domains.items()]
    proto = helper.make_model(graph, opset_imports=imports, ir_version=ir_version(opset))
    helper.set_model_props(proto, dict(metadata or {}))
    return bytes(proto.SerializeToString())


def ir_version(opset: int) -> int:
    """An IR version that the opset and the installed onnxruntime both accept."""
    return 8 if opset <= 18 else 10


def network_of(content: bytes) -> Network:
    return build(parse(content, "test model"))


def run(content: bytes, x: NDArray[np.float32], *, level: Any = ALL, threads: int = 1) -> list[NDArray[Any]]:
    """The outputs of a model for its only input."""
    return session(content, level=level, threads=threads).run(None, {"x": x})


def session(content: bytes, *, level: Any = ALL, threads: int = 1) -> Any:
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = level
    options.intra_op_num_threads = threads
    options.log_severity_level = 4
    return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])


def newest_opset_of_onnxruntime() -> int:
    """The newest opset that the installed onnxruntime promises to run."""
    for opset in range(onnx.defs.onnx_opset_version(), 0, -1):
        try:
            session(model([node("Relu", ["x"], "y")], [1], {}, opset=opset))
        except Exception:  # whatever way a runtime refuses an opset
            continue
        return opset
    raise AssertionError("onnxruntime runs no opset")
