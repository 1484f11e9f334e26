"""Random networks of supported operators: convolutional with residual branches, then dense; small enough to attack."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from support.onnx_models import model, node


class _Builder:
    """Grows a network node by node; `name` and `shape` are those of the latest value."""

    def __init__(self, rng: np.random.Generator, shape: tuple[int, ...], smooth: np.random.Generator) -> None:
        self.rng, self.smooth = rng, smooth
        self.nodes: list[onnx.NodeProto] = []
        self.constants: dict[str, NDArray[Any]] = {}
        self.name, self.shape = "x", shape

    def constant(self, value: Any) -> str:
        name = f"c{len(self.constants)}"
        self.constants[name] = np.asarray(value)
        return name

    def weights(self, *shape: int, scale: float = 1.0) -> str:
        return self.constant((scale * self.rng.normal(size=shape)).astype(np.float32))

    def apply(self, operator: str, *others: str, shape: tuple[int, ...] | None = None, **attributes: Any) -> None:
        name = f"v{len(self.nodes)}"
        self.nodes.append(node(operator, [self.name, *others], name, **attributes))
        self.name, self.shape = name, shape or self.shape

    def convolution(self) -> None:
        channels = self.shape[1]
        groups = int(self.rng.choice([g for g in (1, channels) if channels % g == 0]))
        outputs = groups * int(self.rng.integers(1, 4)) if groups > 1 else int(self.rng.integers(2, 5))
        stride = int(self.rng.integers(1, 3)) if min(self.shape[2:]) > 4 else 1
        height, width = ((size - 1) // stride + 1 for size in self.shape[2:])
        scale = (channels // groups * 9) ** -0.5
        operands = [self.weights(outputs, channels // groups, 3, 3, scale=scale), self.weights(outputs)]
        self.apply(
            "Conv",
            *operands[: int(self.rng.integers(1, 3))],
            shape=(1, outputs, height, width),
            group=groups,
            strides=[stride, stride],
            pads=[1, 1, 1, 1],
        )

    def batch_norm(self) -> None:
        count = self.shape[1]
        variance = self.constant((0.05 + self.rng.random(count)).astype(np.float32))
        self.apply("BatchNormalization", self.weights(count), self.weights(count), self.weights(count), variance)

    def activation(self) -> None:
        kind = self.rng.integers(5)
        if self.smooth.random() < 0.4:
            self.smooth_activation()
        elif kind == 0:
            self.apply("LeakyRelu", alpha=float(self.rng.normal()))
        elif kind == 1:
            ends = np.sort(self.rng.normal(size=2)).astype(np.float32)
            self.apply("Clip", self.constant(ends[0]), self.constant(ends[1]))
        else:
            self.apply("Relu")

    def smooth_activation(self) -> None:
        """An activation, or several nodes that runtimes may fuse into one."""
        x, shape = self.name, self.shape
        single = (
            *("Sigmoid", "Tanh", "Softplus", "Softsign", "Erf", "Elu", "Selu", "Celu", "HardSigmoid", "HardSwish"),
            *("Softmax", "LogSoftmax", "Abs", "Exp"),
        )
        kind = str(self.smooth.choice([*single, "Swish", "Gelu", "Gelu (tanh)", "Sqrt", "Pow", "Reciprocal", "Max"]))
        if kind == "Exp":
            self.apply("Clip", "", self.constant(np.float32(2)))
        if kind.endswith("oftmax"):
            self.apply(kind, axis=1)
        elif kind in single:
            self.apply(kind)
        elif kind == "Swish":
            self.apply("Mul", self.constant(np.float32(1.702)))
            self.apply("Sigmoid")
            self.apply("Mul", x)
        elif kind == "Gelu":
            self.apply("Div", self.constant(np.float32(np.sqrt(2))))
            self.apply("Erf")
            self.apply("Add", self.constant(np.float32(1)))
            self.apply("Mul", x)
            self.apply("Mul", self.constant(np.float32(0.5)))
        elif kind == "Gelu (tanh)":
            self.apply("Pow", self.constant(np.float32(3)))
            self.apply("Mul", self.constant(np.float32(0.044715)))
            self.apply("Add", x)
            self.apply("Mul", self.constant(np.float32(np.sqrt(2 / np.pi))))
            self.apply("Tanh")
            self.apply("Add", self.constant(np.float32(1)))
            self.apply("Mul", x)
            self.apply("Mul", self.constant(np.float32(0.5)))
        elif kind == "Pow":
            self.apply("Pow", self.constant(np.float32(3)))
        elif kind == "Max":
            self.apply("Neg")
            self.apply(str(self.smooth.choice(["Max", "Min"])), x, self.constant(np.float32(-0.25)))
        else:
            self.apply("Abs")
            self.apply("Add", self.constant(np.float32(0.5)))
            self.apply(kind)
        self.shape = shape

    def rescale(self) -> None:
        operator = str(self.rng.choice(["Add", "Sub", "Mul", "Div", "constant first"]))
        per_channel = (self.shape[1],) + (1,) * (len(self.shape) - 2)
        value = self.rng.choice([-1, 1], per_channel) * (0.5 + self.rng.random(per_channel))
        constant = self.constant(value.astype(np.float32))
        if operator == "constant first":
            constant, self.name, operator = self.name, constant, "Sub"
        self.apply(operator, constant)

    def residual(self) -> None:
        start = self.name
        channels = self.shape[1]
        for _ in range(int(self.rng.integers(1, 3))):
            scale = (channels * 9) ** -0.5
            self.apply("Conv", self.weights(channels, channels, 3, 3, scale=scale), pads=[1, 1, 1, 1])
            if self.rng.random() < 0.5:
                self.apply("Relu")
        self.apply(str(self.rng.choice(["Add", "Sub", "Mul"])), start)

    def pooling(self) -> None:
        if min(self.shape[2:]) < 3:
            return
        operator = str(self.rng.choice(["MaxPool", "AveragePool"]))
        # Runtimes fold a Pad into the pooling after it, whose windows could then hold nothing but padding.
        padded = bool(self.nodes) and self.nodes[-1].op_type == "Pad"
        pad = 0 if padded else int(self.rng.integers(0, 2))
        height, width = ((size + 2 * pad - 2) // 2 + 1 for size in self.shape[2:])
        attributes: dict[str, Any] = {"kernel_shape": [2, 2], "strides": [2, 2], "pads": [pad] * 4}
        if operator == "AveragePool" and any(each.op_type == "Pad" for each in self.nodes):
            attributes["count_include_pad"] = 1  # some runtimes leave out a Pad that they fold
        self.apply(operator, shape=(*self.shape[:2], height, width), **attributes)

    def movement(self) -> None:
        """Something that moves elements, changes their sign, or does nothing."""
        _, channels, height, width = self.shape
        kind = self.rng.integers(11)
        if kind == 0:
            self.apply("Transpose", shape=(1, channels, width, height), perm=[0, 1, 3, 2])
        elif kind == 1:
            pads = self.constant(np.array([0, 0, 1, 0, 0, 0, 0, 1]))
            mode = str(self.rng.choice(["constant", "edge"]))
            self.apply("Pad", pads, shape=(1, channels, height + 1, width + 1), mode=mode)
        elif kind == 2:
            self.apply("Gather", self.constant(self.rng.permutation(channels)), axis=1)
        elif kind == 3:
            self.apply("Concat", self.name, shape=(1, 2 * channels, height, width), axis=1)
        elif kind == 4 and height > 1:
            bounds = [self.constant(np.array([value])) for value in (1, height, 2)]
            self.apply("Slice", *bounds, shape=(1, channels, height - 1, width))
        elif kind == 5:
            self.exchange_halves()
        elif kind == 6:
            self.apply("Reshape", self.constant(np.array([0, channels, -1])))
            self.apply("Reshape", self.constant(np.array([-1, channels, height, width])))
        elif kind == 7:
            axis = self.constant(np.array([2]))
            self.apply("Unsqueeze", axis)
            self.apply("Squeeze", axis)
        elif kind == 8:
            self.apply("Neg")
        elif kind == 9:
            self.apply("Identity")
        else:
            self.apply("Dropout")

    def exchange_halves(self) -> None:
        """Split the channels and join the parts the other way round."""
        channels = self.shape[1]
        if channels < 2:
            return
        sizes = self.constant(np.array([1, channels - 1]))
        first, second = f"v{len(self.nodes)}a", f"v{len(self.nodes)}b"
        self.nodes.append(node("Split", [self.name, sizes], [first, second], axis=1))
        self.name = second
        self.apply("Concat", first, axis=1)

    def reduction(self) -> None:
        """Subtract from every channel its mean, its sum or its largest element."""
        image, shape = self.name, self.shape
        operator = str(self.rng.choice(["GlobalAveragePool", "GlobalMaxPool", "ReduceMean", "ReduceSum"]))
        if operator == "ReduceMean":
            self.apply(operator, axes=[2, 3])
        elif operator == "ReduceSum":
            self.apply(operator, self.constant(np.array([3])))
        else:
            self.apply(operator)
        self.apply("Sub", image, shape=shape)

    def head(self, classes: int) -> None:
        if self.rng.random() < 0.3:
            self.apply("GlobalAveragePool", shape=(*self.shape[:2], 1, 1))
        count = int(np.prod(self.shape))
        self.apply("Flatten", shape=(1, count))
        if self.rng.random() < 0.5:
            width = int(self.rng.integers(3, 9))
            self.apply("MatMul", self.weights(count, width, scale=count**-0.5), shape=(1, width))
            self.apply("Add", self.weights(width))
            if self.rng.random() < 0.5:
                self.batch_norm()
            self.activation()
            count = width
        self.apply("Gemm", self.weights(classes, count), self.weights(classes), shape=(1, classes), transB=1)


def random_network(seed: int, *, classes: int = 4) -> tuple[bytes, tuple[int, ...]]:
    """A random model with output "y", an open batch axis, and the shape of its input."""
    rng = np.random.default_rng(seed)
    size = int(rng.integers(3, 7))
    shape = (1, int(rng.integers(1, 4)), size, size)
    builder = _Builder(rng, shape, np.random.default_rng((seed, 1)))
    if rng.random() < 0.5:
        builder.rescale()
    for _ in range(int(rng.integers(1, 4))):
        builder.convolution()
        steps = [
            *(builder.batch_norm, builder.rescale, builder.residual),
            *(builder.pooling, builder.movement, builder.movement, builder.reduction),
        ]
        for index in rng.permutation(len(steps))[: int(rng.integers(0, 4))]:
            steps[index]()
        builder.activation()
    builder.head(classes)
    builder.nodes[-1].output[0] = "y"
    return model(builder.nodes, ["n", *shape[1:]], builder.constants, opset=17), shape
