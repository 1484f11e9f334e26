"""Read an ONNX file into nodes and constants; refuse what cannot be a self-contained float32 network."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from google.protobuf.message import DecodeError
from numpy.typing import NDArray
from onnx import numpy_helper

from verify.errors import ModelProblem
from verify.files import read_unpacked

_OLDEST_OPSET = 6
_INPUTS: dict[int, np.dtype[Any]] = {
    onnx.TensorProto.FLOAT: np.dtype(np.float32),
    onnx.TensorProto.UINT8: np.dtype(np.uint8),
}


@dataclass(frozen=True)
class OnnxValue:
    """An input of the graph. shape: None for each dimension that the model leaves open. dtype: float32 or uint8."""

    name: str
    shape: tuple[int | None, ...]
    dtype: np.dtype[Any]


@dataclass(frozen=True)
class OnnxFile:
    """The content of a model file, its structure checked, its operators not yet looked at.

    declared: shapes that it states of values inside it, which runtimes believe.
    """

    sha256: str
    opset: int
    metadata: Mapping[str, str]
    inputs: tuple[OnnxValue, ...]
    outputs: tuple[str, ...]
    declared: Mapping[str, tuple[int | None, ...]]
    constants: Mapping[str, NDArray[Any]]
    nodes: tuple[onnx.NodeProto, ...]


def read(path: Path) -> OnnxFile:
    """Read and check a model file; raises ModelProblem when it cannot be read, and as `parse` does."""
    return parse(content_of(path), str(path))


def content_of(path: Path) -> bytes:
    """The model in a file, which gzip may have compressed; raises ModelProblem when it cannot be read."""
    return read_unpacked(path, "model", ModelProblem)


def parse(content: bytes, name: str) -> OnnxFile:
    """Check a model file's content; `name` is what messages call it.

    Raises ModelProblem when it is no ONNX model, invalid, keeps weights in other files, or holds non-finite weights.
    """
    try:
        model = onnx.load_model_from_string(content)
    except DecodeError as error:
        raise ModelProblem(f"{name} is not an ONNX file (or is truncated)") from error
    graph = model.graph
    constants = {tensor.name: constant(tensor) for tensor in graph.initializer}
    if not graph.node and not graph.output:
        raise ModelProblem(f"{name} is not an ONNX file: it holds no graph")
    _sort(graph, name)
    for value in graph.output:  # the standard demands a shape there; runtimes do not, and nothing here reads it
        if value.type.HasField("tensor_type"):
            value.type.tensor_type.shape.SetInParent()
    try:
        onnx.checker.check_model(model)
    except (onnx.checker.ValidationError, ValueError) as error:
        raise ModelProblem(f"{name} is not a valid ONNX model: {str(error).splitlines()[0]}") from error
    if model.functions:
        raise ModelProblem(
            f"{name} holds functions of its own, which are not supported: inline them, "
            "with onnx.inliner.inline_local_functions"
        )
    if graph.sparse_initializer:
        raise ModelProblem(f"{name} holds sparse weights, which are not supported")
    return OnnxFile(
        sha256=hashlib.sha256(content).hexdigest(),
        opset=_opset(model),
        metadata={entry.key: entry.value for entry in model.metadata_props},
        inputs=tuple(_input(value) for value in graph.input if value.name not in constants),
        outputs=tuple(value.name for value in graph.output),
        declared={
            value.name: _sizes(value)
            for value in graph.value_info
            if value.type.HasField("tensor_type") and value.type.tensor_type.HasField("shape")
        },
        constants=constants,
        nodes=tuple(graph.node),
    )


def constant(tensor: onnx.TensorProto) -> NDArray[Any]:
    """A tensor's value; raises ModelProblem when it is malformed, in another file, or holds numbers that are not
    finite."""
    if tensor.data_location == onnx.TensorProto.EXTERNAL:
        raise ModelProblem(
            f"the constant {tensor.name!r} is kept in another file, which the model's hash does not cover: "
            "save the model as one file, by torch.onnx.export(..., external_data=False) or with "
            "onnx.save(onnx.load('model.onnx'), 'single.onnx'), and deploy that"
        )
    try:
        value = numpy_helper.to_array(tensor)
    except (ValueError, TypeError, KeyError) as error:
        raise ModelProblem(f"the constant {tensor.name!r} is malformed ({error})") from error
    if value.dtype.kind == "f" and not np.isfinite(value).all():
        raise ModelProblem(f"the constant {tensor.name!r} holds numbers that are not finite")
    return value


def _sort(graph: onnx.GraphProto, name: str) -> None:
    """Put every node after those that it depends on: the standard wants that, runtimes do not insist on it."""
    nodes = list(graph.node)
    producer = {value: index for index, node in enumerate(nodes) for value in node.output if value}
    needs = {index: [producer[n] for n in node.input if n in producer] for index, node in enumerate(nodes)}
    if all(max(before, default=-1) < index for index, before in needs.items()):
        return
    try:
        order = list(TopologicalSorter(needs).static_order())
    except CycleError as error:
        raise ModelProblem(f"{name} is not a valid ONNX model: its nodes form a cycle") from error
    del graph.node[:]
    graph.node.extend(nodes[index] for index in order)


def _opset(model: onnx.ModelProto) -> int:
    versions = {imported.version for imported in model.opset_import if imported.domain in ("", "ai.onnx")}
    if len(versions) != 1:
        raise ModelProblem(f"the model names {len(versions)} versions of the ONNX operator set instead of one")
    (version,), newest = versions, onnx.defs.onnx_opset_version()
    if not _OLDEST_OPSET <= version <= newest:
        raise ModelProblem(f"opset {version} is not supported: {_OLDEST_OPSET} to {newest} are")
    return int(version)


def _sizes(value: onnx.ValueInfoProto) -> tuple[int | None, ...]:
    """None for dimensions that are left open."""
    dimensions = value.type.tensor_type.shape.dim
    return tuple(d.dim_value if d.HasField("dim_value") and d.dim_value >= 0 else None for d in dimensions)


def _input(value: onnx.ValueInfoProto) -> OnnxValue:
    kind = value.type.tensor_type
    if kind.elem_type not in _INPUTS:
        names = {number: name for name, number in onnx.TensorProto.DataType.items()}
        name = names.get(kind.elem_type, "unknown")
        raise ModelProblem(f"the input {value.name!r} is of type {name}: only FLOAT and UINT8 inputs are supported")
    sizes = _sizes(value)
    if 0 in sizes:
        raise ModelProblem(f"the input {value.name!r} of shape {sizes} is empty")
    return OnnxValue(value.name, sizes, _INPUTS[kind.elem_type])
