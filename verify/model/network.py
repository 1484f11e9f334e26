"""From an ONNX file to a network of primitives."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from verify.core.primitives import Input, Product, Select, Shape, Tensor
from verify.errors import ModelProblem
from verify.model import onnx_file
from verify.model.batching import require_independent_samples
from verify.model.fusion import with_fusions
from verify.model.onnx_file import OnnxFile, OnnxValue
from verify.model.operators import LARGEST, Operand, express, require_supported
from verify.model.replacements import require_faithful_replacements

_LARGEST_TOTAL = 2**31
"""Bytes of what a model computes while it is read."""

_BATCHES = (2, 3)
"""Samples that are looked at together, where the model leaves their number open."""


@dataclass(frozen=True)
class Network:
    """A model as verified: for one execution, on one sample where the model leaves the size of a batch open.

    sha256: of the file's bytes.
    """

    sha256: str
    opset: int
    metadata: Mapping[str, str]
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]

    @property
    def input(self) -> Tensor:
        """The only input; raises ModelProblem if there are several."""
        if len(self.inputs) != 1:
            raise ModelProblem(f"the model has {len(self.inputs)} inputs; exactly one is supported")
        return self.inputs[0]

    @property
    def output(self) -> Tensor:
        """The only output; raises ModelProblem if there are several."""
        if len(self.outputs) != 1:
            raise ModelProblem(f"the model has {len(self.outputs)} outputs; exactly one is supported")
        return self.outputs[0]

    @property
    def takes_bytes(self) -> bool:
        """Whether the only input is of uint8, as images are stored, rather than of float32."""
        return self.input.dtype == np.uint8

    def require_floats(self, what: str) -> None:
        """Raise ModelProblem where the network takes bytes, which does not do for that."""
        if self.takes_bytes:
            raise ModelProblem(f"the model takes bytes (uint8): {what} is about models that take float32 numbers")


class Model:
    """A model file, for which there is one network, or one for each shape of samples if it leaves that open."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        """Raises ModelProblem for what cannot be read, or holds operators that are not supported."""
        self.file = onnx_file.read(Path(path))
        require_supported(self.file.nodes, self.file.opset)
        self._latest: tuple[Shape | None, Network] | None = None

    def network(self, sample: Shape | None = None) -> Network:
        """As `build` makes it; the latest one is kept."""
        key = sample if any(None in value.shape[1:] for value in self.file.inputs) else None
        if self._latest is None or self._latest[0] != key:
            self._latest = key, build(self.file, key)
        return self._latest[1]


def load(path: str | os.PathLike[str], sample: Shape | None = None) -> Network:
    """Read a model file into a network; raises ModelProblem for whatever cannot be verified. sample: as for `build`."""
    return Model(path).network(sample)


def build(file: OnnxFile, sample: Shape | None = None) -> Network:
    """Express every node of the file in primitives, by the table of operators.

    An open batch axis gets length one, once it is shown that the samples of a batch do not influence each other. Other
    axes of the input that are open get the lengths that they have in a sample of this shape, without a batch axis.
    """
    require_supported(file.nodes, file.opset)
    file = replace(file, inputs=tuple(_taking(value, sample) for value in file.inputs))
    inputs, outputs = _expressed(file, batch=1)
    require_faithful_replacements(outputs)
    if any(None in value.shape for value in file.inputs):
        for batch in _BATCHES:
            require_independent_samples((inputs, outputs), _expressed(file, batch=batch), batch)
    return Network(file.sha256, file.opset, file.metadata, inputs, with_fusions(outputs))


def _expressed(file: OnnxFile, *, batch: int) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
    """The inputs and outputs of the network, for that many samples where the model leaves their number open."""
    inputs = tuple(Tensor(Input(), (), _shape(value, batch), value.name, value.dtype) for value in file.inputs)
    if any(math.prod(tensor.shape) > LARGEST for tensor in inputs):
        raise ModelProblem("the input of the model is too large")
    values: dict[str, Operand] = {**file.constants, **{tensor.name: tensor for tensor in inputs}}
    room = _LARGEST_TOTAL
    for proto in file.nodes:
        operands = [_value(values, name) if name else None for name in proto.input]
        results = express(proto, file.opset, operands)
        for name, result in zip(proto.output, results, strict=False):
            _require_declared(name, result.shape, file.declared)
            room -= _bytes(result, operands)
        if room < 0:
            raise ModelProblem("the constants and indices that the model computes are too large")
        values.update(zip(proto.output, results, strict=False))
    outputs = []
    for name in file.outputs:
        output = _value(values, name)
        if not (isinstance(output, Tensor) and (output.varies or output.grid)):
            raise ModelProblem(f"the output {name!r} does not depend on the input")
        outputs.append(output)
    return inputs, tuple(outputs)


def _require_declared(name: str, shape: Shape, declared: Mapping[str, tuple[int | None, ...]]) -> None:
    """Refuse a value that has another shape than the file says: runtimes compute with what it says."""
    said = declared.get(name, shape)
    if len(said) != len(shape) or any(size not in (None, actual) for size, actual in zip(said, shape, strict=True)):
        raise ModelProblem(f"the model declares the shape {said} for {name!r}, which has the shape {shape}")


def _bytes(result: Operand, operands: Sequence[Operand | None]) -> int:
    """What a value, and all between it and the operands of its node, takes: indices once the network is read, and
    products, of which a matrix product of two values has many more than results, once it is bounded."""
    if not isinstance(result, Tensor):
        return result.nbytes
    total, waiting, seen = 0, [result], {operand for operand in operands if isinstance(operand, Tensor)}
    while waiting:
        tensor = waiting.pop()
        if tensor not in seen:
            seen.add(tensor)
            total += tensor.primitive.index.nbytes if isinstance(tensor.primitive, Select) else 0
            total += 8 * math.prod(tensor.shape) if isinstance(tensor.primitive, Product) else 0
            waiting.extend(tensor.operands)
    return total


def _value(values: Mapping[str, Operand], name: str) -> Operand:
    if name not in values:
        raise ModelProblem(f"the value {name!r} is an output of its node that is not supported, or of no node")
    return values[name]


def _taking(value: OnnxValue, sample: Shape | None) -> OnnxValue:
    """The input that takes samples of that shape, of which none but the batch axis is open."""
    if None not in value.shape[1:]:
        return value
    if sample is None or len(sample) != len(value.shape) - 1:
        raise ModelProblem(
            f"the input {value.name!r} leaves more than its first axis open, {value.shape}: "
            f"the shape of a sample has to tell the lengths of {len(value.shape) - 1} axes"
        )
    sizes = (size or length for size, length in zip(value.shape[1:], sample, strict=True))
    return replace(value, shape=(value.shape[0], *sizes))


def _shape(value: OnnxValue, batch: int) -> Shape:
    return tuple(batch if size is None else size for size in value.shape)
