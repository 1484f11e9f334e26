"""Random graphs with QuantizeLinear and DequantizeLinear in the oddest places, for what runtimes may make of them."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from support.onnx_models import model, node

Quantised = tuple[str, tuple[str, str]]
"""Name, and names of scale and zero point."""


class _Builder:
    """Appends operators to any of the values so far; all have the shape of the input."""

    def __init__(self, rng: np.random.Generator, shape: tuple[int, ...]) -> None:
        self.rng, self.shape = rng, shape
        self.nodes: list[onnx.NodeProto] = []
        self.constants: dict[str, NDArray[Any]] = {}
        self.dtype = rng.choice([np.int8, np.uint8])
        self.floats = ["x"]
        self.integers: list[Quantised] = []
        self.dequantised: list[Quantised] = []
        limits = np.iinfo(self.dtype)
        self.grids: list[tuple[str, str]] = []
        self.scale_of: dict[str, np.float32] = {}
        for scale in rng.choice(np.array([0.03, 0.05, 2**-5, 0.011], np.float32), 2, replace=False):
            zero = rng.choice([limits.min, int(rng.integers(limits.min + 30, limits.max - 30))])
            name = self.constant(scale)
            self.scale_of[name] = scale
            self.grids.append((name, self.constant(np.array(zero, self.dtype))))

    def constant(self, value: Any) -> str:
        name = f"c{len(self.constants)}"
        self.constants[name] = np.asarray(value)
        return name

    def emit(self, operator: str, *operands: str, **attributes: Any) -> str:
        result = f"v{len(self.nodes)}"
        self.nodes.append(node(operator, operands, result, **attributes))
        return result

    def one_of(self, values: list[Any]) -> Any:
        return values[-1] if self.rng.random() < 0.6 else values[int(self.rng.integers(len(values)))]

    def quantise(self, value: str, grid: tuple[str, str]) -> None:
        self.integers.append((self.emit("QuantizeLinear", value, *grid), grid))
        if self.rng.random() < 0.9:
            self.dequantise(*self.integers[-1])

    def dequantise(self, value: str, grid: tuple[str, str]) -> None:
        self.dequantised.append((self.emit("DequantizeLinear", value, *grid), grid))
        self.floats.append(self.dequantised[-1][0])

    def moved(self, value: str) -> str:
        """Something that moves elements, or does nothing."""
        operator = str(self.rng.choice(["Identity", "Reshape", "Flatten", "Transpose", "MaxPool"]))
        if operator == "Identity":
            return self.emit(operator, value)
        target = self.constant(np.array((-1, *self.shape[1:])))
        if operator == "Reshape":
            return self.emit(operator, value, target)
        if operator == "Flatten":
            return self.emit("Reshape", self.emit(operator, value), target)
        if len(self.shape) == 2:
            return value
        if operator == "Transpose":
            return self.emit(operator, value, perm=[0, 1, 3, 2])
        return self.emit(operator, value, kernel_shape=[3, 3], pads=[1] * 4)

    def dequantised_constant(self, value: NDArray[Any], scale: Any, axis: int = 0) -> str:
        """Seven bits, symmetric; eight, around 120; or 32."""
        zeros = np.full(np.shape(scale), 120 if value.dtype == np.uint8 else 0, value.dtype)
        along = {"axis": axis} if np.shape(scale) else {}
        operands = [self.constant(value), self.constant(np.asarray(scale, np.float32)), self.constant(zeros)]
        return self.emit("DequantizeLinear", *operands, **along)

    def elementwise(self) -> str:
        rng, value = self.rng, self.one_of(self.floats)
        kind = rng.integers(6)
        if kind == 0:
            return self.emit("Relu", value)
        if kind == 1:
            return self.emit("Clip", value, *(self.constant(np.float32(end)) for end in (-0.4, rng.choice([0.8, 100]))))
        if kind == 2:
            return self.emit(str(rng.choice(["Add", "Mul", "Sub"])), value, self.one_of(self.floats))
        channel = (self.shape[1], *[1] * (len(self.shape) - 2))
        if kind == 3:
            integers = rng.integers(-99, 100, channel).astype(rng.choice([np.int8, np.int32]))
            return self.emit(str(rng.choice(["Add", "Mul"])), value, self.dequantised_constant(integers, 0.01))
        operator = str(rng.choice(["Add", "Sub", "Mul", "Div"]))
        nothing = np.float32(operator in ("Mul", "Div"))
        constant = nothing if kind == 4 else (0.5 + rng.random(channel)).astype(np.float32)
        return self.emit(operator, value, self.constant(constant))

    def product(self) -> None:
        """Mostly of dequantised operands, mostly quantised again."""
        rng, channels = self.rng, self.shape[1]
        value, grid = self.one_of(self.dequantised) if rng.random() < 0.8 else (self.one_of(self.floats), self.grids[0])
        operator = "Conv" if len(self.shape) == 4 else str(rng.choice(["Gemm", "MatMul"]))
        shape = (channels, channels, 3, 3) if operator == "Conv" else (channels, channels)
        transposed = int(operator == "Gemm" and rng.random() < 0.5)
        attributes = {"Conv": {"pads": [1] * 4}, "Gemm": {"transB": transposed}, "MatMul": {}}[operator]
        scale = (0.004 + 0.004 * rng.random(channels if rng.random() < 0.4 else ())).astype(np.float32)
        seven, eight = rng.integers(-64, 65, shape).astype(np.int8), rng.integers(0, 256, shape).astype(np.uint8)
        stored = eight if self.dtype == np.uint8 and not scale.shape and rng.random() < 0.3 else seven
        axis = 0 if operator == "Conv" or transposed else 1
        operands = [value, self.dequantised_constant(stored, scale, axis)]
        if rng.random() < 0.1:
            operands[1] = self.constant((0.3 * rng.normal(size=shape)).astype(np.float32))
        kind = rng.choice(["none", "quantised", "float"], p=[0.3, 0.6, 0.1])
        if operator != "MatMul" and kind != "none":
            bias = rng.integers(-900, 900, channels).astype(np.int32)
            unit = self.scale_of[grid[0]] * scale * np.float32(1 if rng.random() < 0.9 else 1.3)
            real = self.constant(rng.normal(size=channels).astype(np.float32))
            operands.append(self.dequantised_constant(bias, unit) if kind == "quantised" else real)
        result = self.emit(operator, *operands, **attributes)
        self.floats.append(result)
        if rng.random() < 0.7:
            if rng.random() < 0.4:
                result = self.emit("Relu", result)
            self.quantise(result, self.grids[int(rng.integers(2))])

    def step(self) -> None:
        kind = self.rng.integers(10)
        if kind <= 1 or not self.dequantised:
            self.quantise(self.one_of(self.floats), self.grids[int(self.rng.random() < 0.3)])
        elif kind == 2:
            value, grid = self.one_of(self.integers)
            self.dequantise(value, grid if self.rng.random() < 0.8 else self.grids[int(self.rng.integers(2))])
        elif kind == 3:
            value, grid = self.one_of(self.integers)
            self.integers.append((self.moved(value), grid))
        elif kind == 4:
            self.floats.append(self.moved(self.one_of(self.floats)))
        elif kind <= 6:
            self.floats.append(self.elementwise())
        else:
            self.product()


def random_quantised_graph(seed: int) -> tuple[bytes, tuple[int, ...]]:
    """A random model with output "y", an open batch axis, and the shape of its input."""
    rng = np.random.default_rng(seed)
    channels = int(rng.integers(1, 4))
    shape = (1, channels, 4, 4) if rng.random() < 0.5 else (1, 2 * channels)
    builder = _Builder(rng, shape)
    for _ in range(int(rng.integers(3, 12))):
        builder.step()
    builder.nodes.append(node("Identity", [builder.floats[-1]], "y"))
    needed, nodes = {"y"}, []
    for each in reversed(builder.nodes):
        if needed & set(each.output):
            nodes.insert(0, each)
            needed |= set(each.input)
    constants = {name: value for name, value in builder.constants.items() if name in needed}
    return model(nodes, ["n", *shape[1:]], constants, opset=int(rng.choice([13, 17, 21]))), shape
