"""Interval bounds by onnxruntime: the compiled graph of `verify.compiled.bounds`, for speed.

What it certifies holds under the contract as long as the runtime that executes the graph keeps it, which the rigorous
engine need not assume.
"""

from __future__ import annotations

from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from verify.boxes import InputRange
from verify.compiled.bounds import compile_bounds
from verify.core.rounding import Array
from verify.errors import Problem
from verify.model.network import Network


class CompiledEngine:
    """The compiled bounds of a classifier, executed by onnxruntime's CPU provider.

    way: what verdicts say that were decided here. proof: the way of the rigorous engine that confirms them.
    """

    way, proof = "ibp-onnx", "ibp"

    def __init__(self, network: Network, eps: Fraction, input_range: InputRange | None, *, threads: int = 0) -> None:
        """threads: 0 for one per core. Raises ModelProblem for a network whose bounds cannot be compiled, Problem where
        onnxruntime is missing."""
        try:
            import onnxruntime
        except ImportError as error:
            raise Problem("the engine onnx needs onnxruntime, which is not installed") from error
        graph = compile_bounds(network, input_range).SerializeToString()
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3
        self._session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
        self._shape = network.input.shape[1:] if network.input.shape[:1] == (1,) else network.input.shape
        radius = np.float32(float(eps))
        self._eps = np.array(np.nextafter(radius, np.float32(np.inf)) if Fraction(float(radius)) < eps else radius)

    def __call__(self, x: NDArray[np.float32]) -> tuple[NDArray[np.int64], Array]:
        """For each sample (samples x the network's input) the prediction, and a lower bound of its least margin."""
        inputs = {"x": x.reshape(-1, *self._shape), "eps": self._eps}
        logits, margins = self._session.run(["logits", "margins"], inputs)
        return logits.argmax(axis=1), margins.min(axis=1).astype(np.float64)
