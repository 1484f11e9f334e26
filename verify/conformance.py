"""Does a runtime on this machine keep the contract? Small models that show how it computes.

Each probe is a model whose float32 result is known exactly, or bounded, under the contract, and differs under one way
of breaking it: reduced precision, transformed convolutions, flushing of subnormal numbers. A probe that passes proves
nothing about other inputs; one that fails voids every certificate on that runtime.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from onnx import TensorProto, helper

from verify.bounds.evaluation import bounds
from verify.compiled.onnx_graph import GraphWriter
from verify.core.intervals import Interval
from verify.core.rounding import FLOAT32_ANY_ORDER
from verify.model.network import Network, build
from verify.model.onnx_file import parse

Floats = NDArray[np.float32]
Run = Callable[[bytes | Path, NDArray[Any]], list[NDArray[Any]]]
"""The first output of a model for its only input, by each way in which a configuration executes it."""

OPSET = 17
IR_VERSION = 8
_LEVELS = (
    onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL,
    onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL,
)
_STRICT_OPTIONS: dict[str, dict[str, str]] = {
    "CUDAExecutionProvider": {"use_tf32": "0", "cudnn_conv_algo_search": "DEFAULT"},
}
"""Options of a provider under which it is known to keep the contract."""
_EXPECTED_PROVIDERS = ("CPUExecutionProvider", "CUDAExecutionProvider")


@dataclass(frozen=True)
class Configuration:
    """A provider of onnxruntime with its options."""

    provider: str
    options: dict[str, str]

    def __str__(self) -> str:
        chosen = ", ".join(f"{key}={value}" for key, value in self.options.items())
        return f"{self.provider.removesuffix('ExecutionProvider')} ({chosen or 'default options'})"


class Outcome(StrEnum):
    """What a probe says of the contract."""

    KEPT = "kept"
    BROKEN = "broken"
    NOT_RUN = "not run"


@dataclass(frozen=True)
class Finding:
    """What a probe showed. advice: what to do about a broken contract."""

    configuration: Configuration
    probe: str
    outcome: Outcome
    observation: str
    advice: str = ""


class _Refused(Exception):
    """The runtime does not run a model."""


@dataclass(frozen=True)
class Probe:
    """A question to a runtime; `ask` returns what was observed, and whether it breaks the contract."""

    name: str
    ask: Callable[[Run], tuple[bool, str]]
    advice: str


def configurations() -> list[Configuration]:
    """What can be probed here: each provider as it is, and with the options that the contract asks for."""
    available = onnxruntime.get_available_providers()
    found = []
    for provider in _EXPECTED_PROVIDERS:
        if provider in available and _works(provider):
            found.append(Configuration(provider, {}))
            if provider in _STRICT_OPTIONS:
                found.append(Configuration(provider, _STRICT_OPTIONS[provider]))
    return found


def findings(network: tuple[Network, Path] | None = None) -> Iterator[Finding]:
    """Probe every configuration; with a network and its file, compare that one with its bounds as well."""
    probes = list(PROBES)
    if network:
        probes.append(Probe("this model", lambda run: _compare(run, *network), _NO_CERTIFICATES))
    for configuration in configurations():
        for probe in probes:
            try:
                broken, observation = probe.ask(_runner(configuration))
            except _Refused as reason:
                yield Finding(configuration, probe.name, Outcome.NOT_RUN, str(reason))
                continue
            if broken:
                yield Finding(configuration, probe.name, Outcome.BROKEN, observation, probe.advice)
            else:
                yield Finding(configuration, probe.name, Outcome.KEPT, observation)


def _works(provider: str) -> bool:
    """A provider may be compiled in and find no device, which the runtime logs and survives."""
    onnxruntime.set_default_logger_severity(4)
    session = onnxruntime.InferenceSession(_gain(1.0), _quiet(), providers=[provider])
    return provider in session.get_providers()


def _quiet() -> Any:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    return options


def _runner(configuration: Configuration) -> Run:
    """Run without optimisation and with all of it, on one thread and on as many as the runtime likes."""

    def run(content: bytes | Path, x: NDArray[Any]) -> list[NDArray[Any]]:
        results = []
        for level in _LEVELS:
            for threads in (1, 0):
                options = _quiet()
                options.graph_optimization_level = level
                options.intra_op_num_threads = threads
                provider = (configuration.provider, configuration.options)
                try:
                    session = onnxruntime.InferenceSession(content, options, providers=[provider])
                    results.append(session.run(None, {session.get_inputs()[0].name: x})[0])
                except Exception as error:  # the runtime's own classes have no common name
                    raise _Refused(str(error).splitlines()[0][:100]) from error
        return results

    return run


def _model(
    writer: GraphWriter,
    shape: list[int | str],
    kinds: tuple[int, int] = (TensorProto.FLOAT, TensorProto.FLOAT),
    rank: int | None = None,
) -> bytes:
    """What was written, from x of a shape to y of a rank, the same unless said otherwise."""
    open_shape = [f"size{axis}" for axis in range(rank or len(shape))]
    model = writer.model(
        "probe",
        [helper.make_tensor_value_info("x", kinds[0], shape)],
        [helper.make_tensor_value_info("y", kinds[1], open_shape)],
        opset=OPSET,
        ir_version=IR_VERSION,
        metadata={},
    )
    return bytes(model.SerializeToString())


def _gain(*factors: float) -> bytes:
    """x times each factor, one after the other."""
    writer, name = GraphWriter(), "x"
    for index, factor in enumerate(factors):
        last = index == len(factors) - 1
        name = writer.node("Mul", name, writer.constant(np.array([factor], np.float32)), output="y" if last else None)
    return _model(writer, ["n"])


def _product(weight: Floats) -> bytes:
    writer = GraphWriter()
    writer.node("MatMul", "x", writer.constant(weight), output="y")
    return _model(writer, ["n", len(weight)])


def _convolution(weight: Floats, size: int) -> bytes:
    writer = GraphWriter()
    writer.node("Conv", "x", writer.constant(weight), pads=[weight.shape[-1] // 2] * 4, output="y")
    return _model(writer, ["n", weight.shape[1], size, size])


def _subnormal(run: Run) -> tuple[bool, str]:
    """2^-100 2^-40 is subnormal, and 2^-40 again once it is multiplied by 2^100."""
    values = run(_gain(2.0**-40, 2.0**100), np.full(8, 2.0**-100, np.float32))
    kept = all((value == np.float32(2.0**-40)).all() for value in values)
    return not kept, "subnormal numbers are kept" if kept else "subnormal numbers are flushed to zero"


def _exact(run: Run, content: bytes, x: Floats, expected: Any, otherwise: str) -> tuple[bool, str]:
    largest = max(float(np.abs(value.astype(np.float64) - expected).max()) for value in run(content, x))
    return (False, "exact") if largest == 0 else (True, f"{otherwise}: off by {largest:.3g}")


def _short_mantissa(run: Run) -> tuple[bool, str]:
    """1 + 2^-12 times one: formats of 10 or fewer explicit bits lose the second term."""
    x = np.full((64, 128), 1 + 2.0**-12, np.float32)
    return _exact(run, _product(np.eye(128, dtype=np.float32)), x, x, "operands are shortened (TF32 or bfloat16)")


def _short_mantissa_in_convolutions(run: Run) -> tuple[bool, str]:
    x = np.full((4, 64, 32, 32), 1 + 2.0**-12, np.float32)
    kernel = np.zeros((64, 64, 3, 3), np.float32)
    kernel[np.arange(64), np.arange(64), 1, 1] = 1
    return _exact(run, _convolution(kernel, 32), x, x, "operands are shortened (TF32 or bfloat16)")


def _accumulation(run: Run) -> tuple[bool, str]:
    """4096 ones: a half-precision sum stops at 2048."""
    x, ones = np.ones((64, 4096), np.float32), np.ones((4096, 64), np.float32)
    return _exact(run, _product(ones), x, 4096.0, "sums are accumulated in half precision")


def _transformed(run: Run) -> tuple[bool, str]:
    """A kernel tap of 2^24 - 1 beside taps of 1, seen through a single non-zero pixel: each output is one tap, exactly,
    unless the kernel was transformed (Winograd, FFT), which mixes taps."""
    x = np.zeros((1, 64, 32, 32), np.float32)
    x[0, 0, 16, 16] = 1
    kernel = np.ones((64, 64, 3, 3), np.float32)
    kernel[:, 0, 0, 0] = 2**24 - 1
    expected = np.zeros((1, 64, 32, 32))
    expected[:, :, 15:18, 15:18] = kernel[:, 0, ::-1, ::-1]
    return _exact(run, _convolution(kernel, 32), x, expected, "convolutions are transformed (Winograd or FFT)")


def _saturation(run: Run) -> tuple[bool, str]:
    """Unsigned times signed bytes at their largest: pairs of products exceed 16 bits."""
    writer = GraphWriter()
    writer.node("MatMulInteger", "x", writer.constant(np.full((64, 32), 127, np.int8)), output="y")
    content = _model(writer, ["n", 64], (TensorProto.UINT8, TensorProto.INT32))
    exact = all((value == 64 * 255 * 127).all() for value in run(content, np.full((32, 64), 255, np.uint8)))
    # Not a breach: models whose products could saturate are refused under every contract that allows for it.
    return False, "exact" if exact else "saturates: quantise to signed activations, or to seven-bit weights"


def _random(run: Run) -> tuple[bool, str]:
    """Small random networks, some with weights of very different magnitudes, stay within their bounds."""
    for seed in range(8):
        content = _random_network(seed)
        broken, observation = _compare(run, build(parse(content, "probe")), content, seed=seed, samples=4)
        if broken:
            return True, f"random network {seed}: {observation}"
    return False, "8 random networks are within their bounds"


def _random_network(seed: int) -> bytes:
    """Convolutions with a residual addition and pooling, then a dense layer."""
    rng = np.random.default_rng(seed)

    def weight(*shape: int) -> str:
        spread = np.exp2(rng.integers(-12, 13, shape)) if seed % 2 else 1.0
        return writer.constant((rng.normal(size=shape) * spread / np.sqrt(np.prod(shape[1:]))).astype(np.float32))

    writer, channels = GraphWriter(), (16, 32)[seed // 2 % 2]
    first = writer.node("Relu", writer.node("Conv", "x", weight(channels, 3, 3, 3), weight(channels), pads=[1] * 4))
    second = writer.node("Conv", first, weight(channels, channels, 3, 3), weight(channels), pads=[1] * 4)
    pooled = writer.node("AveragePool", writer.node("Add", second, first), kernel_shape=[4, 4], strides=[4, 4])
    flat = writer.node("Flatten", writer.node("Relu", pooled))
    writer.node("Gemm", flat, weight(10, channels * 64), weight(10), transB=1, output="y")
    return _model(writer, ["n", 3, 32, 32], rank=2)


def _compare(run: Run, network: Network, model: bytes | Path, *, seed: int = 0, samples: int = 16) -> tuple[bool, str]:
    """Random inputs: is what the runtime computes within the bounds of what the contract allows it to?"""
    shape = network.input.shape
    x = np.random.default_rng(seed).random((samples, *shape)).astype(np.float32)
    if network.takes_bytes:
        x = np.floor(256 * x)
    point = x.astype(np.float64)
    ((lower, upper),) = bounds(network, Interval(point, point), FLOAT32_ANY_ORDER)
    for lane, sample in enumerate(x):
        for value in run(model, sample.astype(network.input.dtype)):
            if not ((lower[lane] <= value) & (value <= upper[lane])).all():
                return True, "results leave the bounds that the contract gives them"
    return False, f"within its bounds at {samples} random inputs"


_NO_CERTIFICATES = "certificates do not hold on this runtime: use another provider, and report this with the versions"
_FULL_PRECISION = (
    "on CUDA set the provider options use_tf32=0 and cudnn_conv_algo_search=DEFAULT (or NVIDIA_TF32_OVERRIDE=0); "
    "on Arm leave mlas.enable_gemm_fastmath_arm64_bfloat16 at 0"
)
PROBES = (
    Probe("subnormal numbers", _subnormal, "leave session.set_denormal_as_zero at 0"),
    Probe("precision of products", _short_mantissa, _FULL_PRECISION),
    Probe("precision of convolutions", _short_mantissa_in_convolutions, _FULL_PRECISION),
    Probe("accumulation", _accumulation, "do not enable half-precision kernels"),
    Probe("direct convolution", _transformed, "on CUDA set cudnn_conv_algo_search=DEFAULT"),
    Probe("products of bytes", _saturation, ""),
    Probe("random networks", _random, _NO_CERTIFICATES),
)
