"""The deployed network: onnxruntime's CPU provider on the model file. It has the last word on counterexamples."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from verify.errors import ModelProblem, Problem
from verify.model.network import Network
from verify.model.onnx_file import content_of


class Runtime:
    """Runs a model file on single inputs, with onnxruntime's default optimisations, on one thread."""

    def __init__(self, content: bytes, network: Network) -> None:
        """Raises Problem when onnxruntime is not installed, and ModelProblem when it refuses the model, or the content
        is not the network's."""
        try:
            import onnxruntime
        except ImportError as error:
            raise Problem("counterexamples are confirmed by onnxruntime, which is not installed") from error
        if hashlib.sha256(content).hexdigest() != network.sha256:
            raise ModelProblem("the model file has changed since it was read")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.log_severity_level = 3
        try:
            self._session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime's own exceptions share no base class but this
            raise ModelProblem(f"onnxruntime refuses the model: {str(error).splitlines()[0]}") from error
        self._network = network

    @classmethod
    def of(cls, path: str | Path, network: Network) -> Runtime:
        """For a model file."""
        return cls(content_of(Path(path)), network)

    def output(self, x: NDArray[np.float32]) -> NDArray[Any]:
        """The only output, flat, for one input, of any shape that has its elements in C order; of whole numbers if the
        model takes bytes."""
        source = self._network.input
        (y,) = self._session.run([self._network_output], {source.name: x.reshape(source.shape).astype(source.dtype)})
        return np.asarray(y).reshape(-1)

    @property
    def _network_output(self) -> str:
        (output,) = self._session.get_outputs()
        return str(output.name)
