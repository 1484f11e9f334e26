"""Random quantised networks in both forms: QLinear operators, and float32 operators between DequantizeLinear and
QuantizeLinear."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from support.onnx_models import model, node

MICROSOFT = "com.microsoft"
FORMS = ("qoperator", "qdq")


class _Builder:
    """Appends operators to a chain of quantised values; remembers name, grid and shape of the last one.

    dtype: of the values. weight_dtype: of the weights, of which int8 ones have seven bits.
    """

    def __init__(self, rng: np.random.Generator, shape: tuple[int, ...], form: str) -> None:
        self.rng, self.shape, self.form = rng, shape, form
        self.nodes: list[onnx.NodeProto] = []
        self.constants: dict[str, NDArray[Any]] = {}
        self.dtype = rng.choice([np.int8, np.uint8])
        # There are no kernels of uint8 weights beside int8 values.
        self.weight_dtype = np.int8 if self.dtype == np.int8 else rng.choice([np.int8, np.uint8])
        self.spread = 1.0  # typical magnitude of what the last value stands for
        self.scale, self.zero = self.grid(0.5)
        self.name = self.fresh()
        self.nodes.append(node("QuantizeLinear", ["x", *self.own], self.name))

    def fresh(self) -> str:
        return f"v{len(self.nodes)}"

    def constant(self, value: Any) -> str:
        name = f"c{len(self.constants)}"
        self.constants[name] = np.asarray(value)
        return name

    def grid(self, spread: float) -> tuple[str, str]:
        """A grid for numbers of that magnitude: any zero point, scales that cause ties, and some saturation."""
        self.spread = spread
        limits = np.iinfo(self.dtype)
        middle = int(self.rng.integers(limits.min + 40, limits.max - 40))
        zero = self.rng.choice([limits.min, limits.max, middle], p=[0.3, 0.05, 0.65])
        scale = np.float32(spread * self.rng.choice([0.01, 0.02, 0.05]))
        if self.rng.random() < 0.3:
            scale = np.float32(2.0 ** np.round(np.log2(scale)))
        self.scales = getattr(self, "scales", {})
        name = self.constant(scale)
        self.scales[name] = scale
        return name, self.constant(np.array(zero, self.dtype))

    @property
    def own(self) -> tuple[str, str]:
        return self.scale, self.zero

    def between(self, operator: str, operands: list[str], spread: float, **attributes: Any) -> None:
        """A float32 operator on dequantised operands, perhaps an activation, and a QuantizeLinear."""
        result = self.fresh()
        self.nodes.append(node(operator, operands, result, **attributes))
        kind = self.rng.integers(4)
        if kind < 2:
            activated = self.fresh()
            ends = [self.constant(np.float32(end)) for end in (-0.5 * spread, 2 * spread)]
            extra, name = ([], "Relu") if kind == 0 else (ends, "Clip")
            self.nodes.append(node(name, [result, *extra], activated))
            result = activated
        grid = self.grid(spread)
        quantised = self.fresh()
        self.nodes.append(node("QuantizeLinear", [result, *grid], quantised))
        self.name, (self.scale, self.zero) = quantised, grid

    def real(self, name: str, *grid: str, **attributes: Any) -> str:
        result = self.fresh()
        self.nodes.append(node("DequantizeLinear", [name, *grid], result, **attributes))
        return result

    def directly(self, operator: str, operands: list[str], spread: float, behind: list[str], **attributes: Any) -> None:
        """A QLinear operator: operands, grid of the result, what comes behind that."""
        grid = self.grid(spread)
        result = self.fresh()
        self.nodes.append(node(operator, [*operands, *grid, *behind], result, **attributes))
        self.name, (self.scale, self.zero) = result, grid

    def product(self, operator: str, weight_shape: tuple[int, ...], axis: int, terms: int, **attributes: Any) -> None:
        """Conv, or Gemm or MatMul with the channels of the weights along `axis`."""
        rng = self.rng
        channels = weight_shape[axis]
        limits = (-64, 65) if self.weight_dtype == np.int8 else (0, 256)
        weight = self.constant(rng.integers(*limits, weight_shape).astype(self.weight_dtype))
        per_channel = rng.random() < 0.5 and self.weight_dtype == np.int8
        scales = ((0.5 + rng.random(channels)) * 0.01).astype(np.float32) if per_channel else np.float32(0.01)
        zero = 0 if self.weight_dtype == np.int8 else 128
        zeros = np.full(scales.shape, zero, self.weight_dtype)
        grid = [self.constant(scales), self.constant(zeros)]
        bias = rng.integers(-(2**12), 2**12, channels).astype(np.int32)
        spread = 0.3 * self.spread * terms**0.5 * (0.5 if self.weight_dtype == np.int8 else 1.0)
        operand = [self.name, *self.own]
        if self.form == "qdq":
            x = self.real(*operand)
            w = self.real(weight, *grid, **({"axis": axis} if per_channel else {}))
            b = []
            if operator != "MatMul":
                unit = np.float32(self.scales[self.scale]) * scales
                along = {"axis": 0} if per_channel else {}
                b = [self.real(self.constant(bias), self.constant(unit), **along)]
            self.between(operator, [x, w, *b], spread, **attributes)
        elif operator == "Conv":
            self.directly("QLinearConv", [*operand, weight, *grid], spread, [self.constant(bias)], **attributes)
        elif operator == "MatMul":
            self.directly("QLinearMatMul", [*operand, weight, *grid], spread, [])
        else:
            operands = [*operand, weight, *grid, self.constant(bias)]
            self.directly("QGemm", operands, spread, [], domain=MICROSOFT, **attributes)

    def convolution(self) -> None:
        _, channels, height, width = self.shape
        groups = 1 if self.rng.random() < 0.7 else channels
        outputs = groups * int(self.rng.integers(1, 5))
        pad, stride = int(self.rng.integers(0, 2)), int(self.rng.integers(1, 3))
        kernel = (outputs, channels // groups, 3, 3)
        if min(height, width) + 2 * pad < 3:
            return
        attributes = {"pads": [pad] * 4, "strides": [stride] * 2, "group": groups}
        self.product("Conv", kernel, 0, int(np.prod(kernel[1:])), **attributes)
        self.shape = (1, outputs, *((size + 2 * pad - 3) // stride + 1 for size in (height, width)))

    def addition(self) -> None:
        """Of the value and a convolution of it."""
        channels = self.shape[1]
        before = (self.name, *self.own)
        self.product("Conv", (channels, channels, 3, 3), 0, 9 * channels, pads=[1] * 4)
        both = [(self.name, *self.own), before]
        operator = str(self.rng.choice(["Add", "Mul"]))
        spread = 2 * self.spread if operator == "Add" else self.spread
        if self.form == "qdq":
            self.between(operator, [self.real(*each) for each in both], spread)
        else:
            self.directly(f"QLinear{operator}", [*both[0], *both[1]], spread, [], domain=MICROSOFT)

    def simple(self) -> None:
        """An operator on one value, without weights."""
        _, channels, height, width = self.shape
        kinds = ["LeakyRelu", "GlobalAveragePool"] + (["AveragePool", "MaxPool"] if min(height, width) >= 2 else [])
        operator = str(self.rng.choice(kinds))
        attributes: dict[str, Any] = {"alpha": 0.3} if operator == "LeakyRelu" else {}
        if operator in ("AveragePool", "MaxPool"):
            attributes = {"kernel_shape": [2, 2], "strides": [2, 2]}
            self.shape = (1, channels, height // 2, width // 2)
        elif operator == "GlobalAveragePool":
            self.shape = (1, channels, 1, 1)
        if operator == "MaxPool":
            result = self.fresh()
            self.nodes.append(node(operator, [self.name], result, **attributes))
            self.name = result
        elif self.form == "qdq":
            self.between(operator, [self.real(self.name, *self.own)], self.spread, **attributes)
        else:
            operands = [self.name, *self.own]
            self.directly(f"QLinear{operator}", operands, self.spread, [], domain=MICROSOFT, **attributes)

    def head(self, classes: int) -> None:
        count = int(np.prod(self.shape))
        flat = self.fresh()
        self.nodes.append(node("Flatten", [self.name], flat))
        self.name = flat
        if self.rng.random() < 0.5:
            self.product("Gemm", (classes, count), 0, count, transB=1)
        else:
            self.product("MatMul", (count, classes), 1, count)
        self.nodes.append(node("DequantizeLinear", [self.name, *self.own], "y"))


def random_quantised_network(
    seed: int, form: str, *, classes: int = 4, products_only: bool = False
) -> tuple[bytes, tuple[int, ...]]:
    """A random model with output "y", an open batch axis, and the shape of its input."""
    rng = np.random.default_rng(seed)
    size = int(rng.integers(3, 7))
    shape = (1, int(rng.integers(1, 4)), size, size)
    builder = _Builder(rng, shape, form)
    for _ in range(int(rng.integers(1, 3))):
        builder.convolution()
        steps = [builder.convolution] if products_only else [builder.addition, builder.simple]
        for index in rng.permutation(len(steps))[: int(rng.integers(0, 3))]:
            steps[index]()
    builder.head(classes)
    return model(builder.nodes, ["n", *shape[1:]], builder.constants, opset=17), shape
