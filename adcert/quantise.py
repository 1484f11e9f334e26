"""Static quantisation of an exported model to eight bits, by onnxruntime's own tool.

Activations and weights are uint8, one scale each: sums of their products are exact on every processor, whereas int8
weights of full range saturate beside uint8 activations on x86 without VNNI.
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from onnx import helper

from adcert import runtime
from adcert.problems import ExportProblem
from verify import datasets
from verify.bounds.evaluation import bounds, values
from verify.bounds.margins import classes, margin_bounds
from verify.boxes import box_around, parse_eps
from verify.core.intervals import Interval
from verify.core.rounding import FLOAT32_ANY_ORDER
from verify.datasets import DataProblem, Dataset
from verify.files import write_atomically
from verify.model import onnx_file
from verify.model.network import Network, build
from verify.model.onnx_file import OnnxFile
from verify.tasks.samples import Samples, read_data, require_labels, samples_of
from verify.tasks.task import input_range
from verify.version import __version__

FORMATS = {"qdq": "QDQ", "qoperator": "QOperator"}
"""Float32 operators between DequantizeLinear and QuantizeLinear, which a runtime may execute on integers; or operators
on integers."""

IMAGES = 1000
"""At most so many of the first ones calibrate, and so many of the last ones are compared on."""

LEAST_AGREEMENT = 0.95
"""Of the images, on how many the quantised model must answer what the float model does."""


@dataclass(frozen=True)
class Agreement:
    """The quantised file against the float one, in onnxruntime, over `images` images.

    equal_argmax: the smallest number of equal answers at any optimisation level. max_difference: between two levels, in
    a logit of the quantised file.
    """

    images: int
    equal_argmax: int
    max_difference: float


def export_int8(source: bytes, form: str, path: Path, data: str | None = None) -> Agreement:
    """Quantise a float model and write it to `path`, once onnxruntime answers nearly what the float model does, and at
    every optimisation level what the verifier says it can.

    source: the content of the float file. form: one of FORMATS. data: the training split of a data set, by its name, or
    an .npz file: the first inputs calibrate, the last ones are compared on. None for the data set that the model names.
    Raises ExportProblem, ModelProblem where either model cannot be verified, and DataProblem where the data are no
    inputs of it; and leaves `path` as it was then.
    """
    file = onnx_file.parse(source, "the float model")
    if any(node.op_type == "QuantizeLinear" for node in file.nodes):
        raise ExportProblem("the model is quantised already")
    dataset = _training_data(file, data)
    shape = dataset.images.shape[1:]
    given = build(file, shape)
    given.require_floats("quantisation")
    samples = samples_of(dataset, given)
    require_labels(samples, classes(given))
    if not np.isfinite(samples.inputs).all():
        raise DataProblem(f"{samples.name} holds numbers that are not finite")
    part = min(IMAGES, len(samples) // 2)
    if not part:
        raise ExportProblem(f"{samples.name} holds a single sample: at least one calibrates, another one compares")
    calibrating, compared = samples.first(part), samples.after(len(samples) - part)
    model = _quantised(source, form, _feeds(file, calibrating.inputs))
    content = model.SerializeToString()
    network = build(onnx_file.parse(content, "the quantised model"), shape)
    agreement = compare(content, network, source, compared.inputs)
    whole = "the training split" if dataset.split else dataset.name
    own = {
        **_accuracies(network, file.metadata, compared, whole),
        "quantised": f"{form}: uint8 activations and weights, one scale each, onnxruntime's MinMax calibration on the "
        f"first {part} images of {whole}",
        "float_sha256": file.sha256,
        "compared_with": f"the float file, in onnxruntime on {agreement.images} images",
        "equal_argmax": str(agreement.equal_argmax),
        "max_difference": f"{agreement.max_difference:.3g} between onnxruntime's optimisation levels",
        "version": __version__,
    }
    kept = {key: value for key, value in file.metadata.items() if key.startswith("adcert.")}
    helper.set_model_props(model, {**kept, **{f"adcert.{name}": value for name, value in own.items()}})
    onnx.checker.check_model(model)
    write_atomically(path, model.SerializeToString(deterministic=True))
    return agreement


def _training_data(file: OnnxFile, named: str | None) -> Dataset:
    if named and named.endswith(".npz"):
        return read_data(named)
    name = named or file.metadata.get("adcert.dataset", "")
    if not named and name not in datasets.names():
        raise ExportProblem("the model does not name its data set: name data to calibrate it with, --data FILE.npz")
    return datasets.load(name, "train")


def _feeds(file: OnnxFile, inputs: runtime.Images) -> list[runtime.Images]:
    """Inputs, N x the shape of a single one, as the model takes them: many at once where its batch axis is open."""
    (taken,) = file.inputs
    if taken.shape[0] is not None:
        return list(inputs)
    return [inputs[first : first + 100].reshape(-1, *inputs.shape[2:]) for first in range(0, len(inputs), 100)]


def compare(content: bytes, network: Network, source: bytes, inputs: runtime.Images) -> Agreement:
    """Run the quantised file and the float one in onnxruntime; raises ExportProblem if the answers differ too often, or
    if the quantised file yields a logit that the verifier excludes, which would be a defect of either.

    network: the verifier's reading of the quantised file. inputs: N x the shape of its input.
    """
    feeds = _feeds(onnx_file.parse(source, "the float model"), inputs)
    expected = runtime.logits(source, feeds).reshape(len(inputs), -1).argmax(axis=1)
    found = [runtime.logits(content, feeds, level).reshape(len(inputs), -1) for level in runtime.LEVELS]
    equal = min(int((each.argmax(axis=1) == expected).sum()) for each in found)
    if equal < LEAST_AGREEMENT * len(inputs):
        raise ExportProblem(
            f"the quantised model agrees with the float one on {equal} of {len(inputs)} images: nothing was written"
        )
    point = inputs.astype(np.float64)
    ((lower, upper),) = bounds(network, Interval(point, point), FLOAT32_ANY_ORDER)
    for each in found:
        if not ((lower.reshape(each.shape) <= each) & (each <= upper.reshape(each.shape))).all():
            raise ExportProblem(
                "onnxruntime computes logits that the quantised model does not allow: nothing was written"
            )
    difference = max(float(np.abs(each - found[0]).max()) for each in found)
    return Agreement(len(inputs), equal, difference)


def _quantised(source: bytes, form: str, feeds: list[runtime.Images]) -> onnx.ModelProto:
    from onnxruntime import quantization

    given = onnx.load_model_from_string(source)
    name = given.graph.input[0].name

    class Batches(quantization.CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.batches = iter({name: feed} for feed in feeds)

        def get_next(self) -> dict[str, runtime.Images] | None:
            return next(self.batches, None)

    with tempfile.TemporaryDirectory() as folder, _quiet():
        before, after = Path(folder) / "float.onnx", Path(folder) / "int8.onnx"
        before.write_bytes(source)
        quantization.quantize_static(
            before,
            after,
            Batches(),
            quant_format=quantization.QuantFormat[FORMATS[form]],
            activation_type=quantization.QuantType.QUInt8,
            weight_type=quantization.QuantType.QUInt8,
        )
        model = onnx.load(after)
    model.ir_version = given.ir_version
    model.producer_name, model.producer_version = "adcert", __version__
    return model


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the tool's advice to preprocess models, of which exported ones have no need."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)


def _accuracies(network: Network, metadata: Mapping[str, str], samples: Samples, whole: str) -> dict[str, str]:
    """Clean and, if the float model's metadata name an eps, certified accuracy on the images that both models were
    compared on, the last ones of the whole."""
    (logits,) = values(network, samples.inputs.astype(np.float64))
    clean = logits.reshape(len(samples), -1).argmax(axis=1) == samples.labels
    found = {"clean_accuracy": f"{100 * clean.mean():.2f}"}
    if "adcert.eps" not in metadata:
        return found
    eps = parse_eps(metadata["adcert.eps"])
    box = box_around(samples.inputs, eps, input_range(metadata) or samples.natural_range)
    certified = (margin_bounds(network, box, samples.labels, FLOAT32_ANY_ORDER) > 0).all(axis=1)
    return found | {
        "certified_accuracy": f"{100 * certified.mean():.2f}",
        "certified_by": f"interval bounds of the file as executed, at eps {eps}, on the last {len(samples)} images of "
        f"{whole}",
    }
