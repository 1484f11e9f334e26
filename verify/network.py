"""From an ONNX file to a network of primitives."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from verify import onnx_file
from verify.errors import ModelProblem
from verify.linear_maps import Diagonal
from verify.onnx_file import OnnxFile, OnnxValue
from verify.operators import Operand, express, require_supported
from verify.primitives import Input, Linear, Shape, Sum, Tensor, topological, uses


@dataclass(frozen=True)
class Network:
    """A model as verified: for one execution, with an axis that the model leaves open of length one.

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


def load(path: str | Path) -> Network:
    """Read a model file into a network; raises ModelProblem for whatever cannot be verified."""
    return build(onnx_file.read(Path(path)))


def build(file: OnnxFile) -> Network:
    """Express every node of the file in primitives, by the table of operators."""
    require_supported(file.nodes, file.opset)
    inputs = tuple(Tensor(Input(), (), _shape(value), value.name) for value in file.inputs)
    values: dict[str, Operand] = {**file.constants, **{tensor.name: tensor for tensor in inputs}}
    for proto in file.nodes:
        operands = [_value(values, name) if name else None for name in proto.input]
        results = express(proto, file.opset, operands)
        values.update(zip(proto.output, results, strict=False))
    outputs = []
    for name in file.outputs:
        output = _value(values, name)
        if not isinstance(output, Tensor):
            raise ModelProblem(f"the output {name!r} does not depend on the input")
        outputs.append(output)
    folded = fuse_additions(fold_scales(tuple(outputs)))
    return Network(file.sha256, file.opset, file.metadata, inputs, folded)


def _value(values: Mapping[str, Operand], name: str) -> Operand:
    if name not in values:
        raise ModelProblem(f"the value {name!r} is an output of its node that is not supported, or of no node")
    return values[name]


def _shape(value: OnnxValue) -> Shape:
    """The batch axis, if the model leaves it open, has length one; no other axis may be open."""
    if any(size is None for size in value.shape[1:]):
        raise ModelProblem(f"the input {value.name!r} leaves more than its first axis open: {value.shape}")
    return tuple(1 if size is None else size for size in value.shape)


def fold_scales(outputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Merge a linear map with the elementwise linear maps that are its only use (batch norms, added biases).

    A runtime may fold these into the weights or not; the merged primitive bounds the rounding of both ways.
    """

    def merge(tensor: Tensor, count: Counter[Tensor]) -> Tensor:
        primitive = tensor.primitive
        if isinstance(primitive, Linear) and isinstance(primitive.map, Diagonal):
            (operand,) = tensor.operands
            if isinstance(operand.primitive, Linear) and count[operand] == 1 and operand.shape == tensor.shape:
                return Tensor(operand.primitive.then(primitive), operand.operands, tensor.shape, tensor.name)
        return tensor

    return _rewrite(outputs, merge)


def fuse_additions(outputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Note on every sum how many roundings an operand meets if it is added inside the other one's dot product."""

    def note(tensor: Tensor, count: Counter[Tensor]) -> Tensor:
        if not isinstance(tensor.primitive, Sum):
            return tensor
        first, second = (
            operand.primitive.roundings if isinstance(operand.primitive, Linear) and count[operand] == 1 else 0
            for operand in tensor.operands
        )
        return replace(tensor, primitive=replace(tensor.primitive, fused_roundings=(first, second)))

    return _rewrite(outputs, note)


def _rewrite(outputs: tuple[Tensor, ...], rule: Callable[[Tensor, Counter[Tensor]], Tensor]) -> tuple[Tensor, ...]:
    """Rebuild the network from its inputs on, each tensor passed through `rule` once its operands are rebuilt."""
    counts = uses(outputs)
    rebuilt: dict[Tensor, Tensor] = {}
    for tensor in topological(outputs):
        operands = tuple(rebuilt[operand] for operand in tensor.operands)
        candidate = tensor if operands == tensor.operands else replace(tensor, operands=operands)
        counts[candidate] = counts[tensor]
        rebuilt[tensor] = rule(candidate, counts)
        counts[rebuilt[tensor]] = counts[tensor]
    return tuple(rebuilt[output] for output in outputs)
