"""Pictures of samples, from the data that a result names, as PNG data URIs."""

from __future__ import annotations

import base64
import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from verify import datasets
from verify.core.rounding import Array
from verify.datasets import DataProblem, Dataset
from verify.report.results import Outcome, Result, Sample
from verify.tasks.samples import read_data

Pixels = NDArray[np.uint8]
"""Height x width, or height x width x 3."""


@dataclass(frozen=True)
class Picture:
    """An input as a person sees it: the sample and, if the result has one, its counterexample with the difference
    (grey: none; white and black: eps more and less) and the largest absolute difference."""

    sample: Sample
    image: str
    counterexample: str | None = None
    difference: str | None = None
    largest: float | None = None


@dataclass(frozen=True)
class Pictures:
    """Those that are shown, or in a sentence why there are none. size: of each, in pixels, width and height."""

    shown: tuple[Picture, ...] = ()
    size: tuple[int, int] = (0, 0)
    absence: str | None = None


@dataclass
class Library:
    """Data sets, each read once. source: a data set or .npz file to look into first. folders: where .npz files are.
    given: data that need not be read."""

    source: str | None
    folders: Sequence[Path]
    given: Sequence[Dataset] = ()
    _read: dict[str, Dataset] = field(default_factory=dict)

    def data_of(self, result: Result) -> Dataset:
        """The very data that a result is about, by its hash; raises DataProblem. Downloads nothing."""
        for dataset in self.given:
            if dataset.sha256 == result.data_sha256:
                return dataset
        name = result.data_name
        candidates = [self.source] if self.source else []
        if name in datasets.names():
            candidates.append(name)
        elif name.endswith(".npz") and Path(name).name == name:
            candidates += [str(folder / name) for folder in self.folders if (folder / name).is_file()]
        reason = f"{name} is not on this machine"
        for candidate in candidates:
            try:
                if candidate not in self._read:
                    self._read[candidate] = read_data(candidate, download=False)
            except DataProblem as problem:
                reason = str(problem)
                continue
            if self._read[candidate].sha256 == result.data_sha256:
                return self._read[candidate]
            reason = f"{candidate} is not the data of the result: its SHA-256 is another"
        raise DataProblem(reason)


def pictures_of(result: Result, library: Library, *, most: int) -> Pictures:
    """Of each outcome the `most` samples whose margin is closest to zero: what was decided most narrowly, or nearly."""
    try:
        data = library.data_of(result)
        _require_pictures(data)
    except DataProblem as problem:
        return Pictures(absence=str(problem))
    labels = data.labels
    if any(not 0 <= sample.index < len(labels) or labels[sample.index] != sample.label for sample in result.samples):
        return Pictures(absence="the samples of the result are not those of its data")
    shown = []
    for outcome in (Outcome.COUNTEREXAMPLE, Outcome.UNDECIDED, Outcome.MISCLASSIFIED, Outcome.CERTIFIED):
        candidates = [sample for sample in result.samples if sample.outcome is outcome]
        candidates.sort(key=lambda sample: (sample.margin is None, abs(sample.margin or 0), sample.index))
        shown += [_picture(sample, data, result) for sample in candidates[:most]]
    height, width = data.images.shape[-2:]
    return Pictures(tuple(shown), (width, height))


def png(pixels: Pixels) -> str:
    """A grey or RGB picture as the data URI of a PNG file (ISO/IEC 15948), eight bits a channel."""
    height, width = pixels.shape[:2]
    rows = np.zeros((height, 1 + pixels[0].size), np.uint8)  # each row opens with its filter: none
    rows[:, 1:] = pixels.reshape(height, -1)
    header = struct.pack(">IIBBBBB", width, height, 8, 2 if pixels.ndim == 3 else 0, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(rows.tobytes(), 9)), (b"IEND", b"")]
    file = b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body)) for kind, body in chunks
    )
    return "data:image/png;base64," + base64.b64encode(file).decode()


def _picture(sample: Sample, data: Dataset, result: Result) -> Picture:
    stored = _as_taken(data, sample.index, result)
    low, high = _limits(data, result)
    image = png(_drawn(stored, low, high))
    if sample.counterexample is None or len(sample.counterexample) != stored.size:
        return Picture(sample, image)
    found = np.array(sample.counterexample).reshape(stored.shape)
    difference = found - stored
    eps = result.eps or 1.0
    pictures = png(_drawn(found, low, high)), png(_drawn(difference, -eps, eps))
    return Picture(sample, image, *pictures, float(abs(difference).max()))


def _as_taken(data: Dataset, index: int, result: Result) -> Array:
    """An input as the model takes it: bytes are scaled to [0, 1], unless the model takes bytes."""
    image: Array = data.images[index].astype(np.float64)
    return image / 255 if data.images.dtype == np.uint8 and not result.of_bytes else image


def _require_pictures(data: Dataset) -> None:
    shape = data.images.shape[1:]
    if not (len(shape) == 2 or (len(shape) == 3 and shape[0] in (1, 3))) or max(shape) > 512 or min(shape) < 1:
        raise DataProblem(f"the inputs, of shape {' x '.join(map(str, shape)) or 'one number'}, are no pictures")


def _limits(data: Dataset, result: Result) -> tuple[float, float]:
    """The values that are drawn black and white."""
    if result.input_range:
        return result.input_range
    return (0.0, 1.0) if data.images.dtype == np.uint8 else (float(data.images.min()), float(data.images.max()))


def _drawn(values: Array, black: float, white: float) -> Pixels:
    """From height x width, or channels x height x width."""
    shares = (np.nan_to_num(values) - black) / ((white - black) or 1.0)
    pixels = np.rint(255 * np.clip(shares, 0, 1)).astype(np.uint8)
    if pixels.ndim == 2:
        return pixels
    return pixels[0] if len(pixels) == 1 else np.moveaxis(pixels, 0, -1)
