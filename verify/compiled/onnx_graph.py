"""Write an ONNX graph node by node; values go by their names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from verify.errors import ModelProblem

_LARGEST_FILE = 2**31 - 2**20
"""Bytes that a protocol buffer can hold."""


class GraphWriter:
    """Collects nodes and constants; equal ones are kept once."""

    def __init__(self) -> None:
        self._nodes: dict[tuple[Any, ...], onnx.NodeProto] = {}
        self._constants: dict[tuple[str, tuple[int, ...], bytes], str] = {}
        self._arrays: list[tuple[str, NDArray[Any]]] = []
        self._size = 0

    def constant(self, value: NDArray[Any]) -> str:
        """The name of a constant; raises ModelProblem when the file would become too large."""
        value = np.asarray(value, order="C")
        key = (value.dtype.str, value.shape, value.tobytes())
        if key not in self._constants:
            self._size += value.nbytes
            if self._size > _LARGEST_FILE:
                raise ModelProblem("the graph would be larger than the two gigabytes that an ONNX file can hold")
            self._constants[key] = f"constant{len(self._arrays)}"
            self._arrays.append((self._constants[key], value))
        return self._constants[key]

    def node(self, operator: str, *operands: str, output: str | None = None, **attributes: Any) -> str:
        """The name of the only output of a node, which is appended unless there is an equal one."""
        key = (operator, operands, output, repr(sorted(attributes.items())))
        if key not in self._nodes:
            name = output or f"value{len(self._nodes)}"
            self._nodes[key] = helper.make_node(operator, operands, [name], name=name, **attributes)
        return str(self._nodes[key].output[0])

    def model(
        self,
        name: str,
        inputs: Sequence[onnx.ValueInfoProto],
        outputs: Sequence[onnx.ValueInfoProto],
        *,
        opset: int,
        ir_version: int,
        metadata: Mapping[str, str],
    ) -> onnx.ModelProto:
        """The checked model of everything that was written."""
        constants = [numpy_helper.from_array(value, constant) for constant, value in self._arrays]
        graph = helper.make_graph(list(self._nodes.values()), name, list(inputs), list(outputs), constants)
        imports = [helper.make_opsetid("", opset)]
        model = helper.make_model(graph, opset_imports=imports, ir_version=ir_version, producer_name="adcert")
        helper.set_model_props(model, dict(metadata))
        onnx.checker.check_model(model, full_check=True)
        return model
