"""The labelled inputs that a verification is about, in the shape that the model takes."""

from __future__ import annotations

import zipfile
import zlib
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from verify import datasets
from verify.boxes import InputRange
from verify.core.primitives import Shape
from verify.datasets import DataProblem, Dataset
from verify.model.network import Network

_BYTES = 0.0, 255.0


@dataclass(frozen=True)
class Samples:
    """inputs: float32, N x the shape of the model's input. labels: int64, N. start: index of the first one.

    natural_range: of what was stored as bytes, [0, 1], or [0, 255] for a model that takes bytes; else None.
    """

    name: str
    split: str | None
    start: int
    sha256: str
    inputs: NDArray[np.float32] = field(repr=False)
    labels: NDArray[np.int64] = field(repr=False)
    natural_range: InputRange | None

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def of_bytes(self) -> bool:
        """Whether they are as the model takes them, which takes bytes."""
        return self.natural_range == _BYTES

    def first(self, count: int) -> Samples:
        """So many of them."""
        return replace(self, inputs=self.inputs[:count], labels=self.labels[:count])

    def after(self, done: int) -> Samples:
        """The samples without the first `done`."""
        return replace(self, start=self.start + done, inputs=self.inputs[done:], labels=self.labels[done:])


def samples_of(dataset: Dataset, network: Network, *, start: int = 0, count: int | None = None) -> Samples:
    """The samples start, start + 1, ... of a data set, as the network takes them: what is stored as bytes is scaled to
    [0, 1], unless the network takes bytes.

    sha256 is that of the whole data, whatever part is taken. Raises DataProblem.
    """
    x, y, name = dataset.images, dataset.labels, dataset.name
    if not 0 <= start < len(y):
        raise DataProblem(f"there is no sample {start}: {name} holds {len(y)}")
    part = slice(start, None if count is None else start + count)
    stored_as_bytes = x.dtype == np.uint8
    if network.takes_bytes and not stored_as_bytes:
        raise DataProblem(f"the model takes bytes (uint8), but {name} holds numbers of type {x.dtype}")
    inputs = x[part].astype(np.float32, copy=False)
    natural_range = None
    if stored_as_bytes:
        inputs = inputs if network.takes_bytes else inputs / np.float32(255)
        natural_range = _BYTES if network.takes_bytes else (0.0, 1.0)
    inputs = _fitted(inputs, network.input.shape, name)
    return Samples(name, dataset.split, start, dataset.sha256, inputs, y[part], natural_range)


def labelled(name: str, x: NDArray[Any], y: NDArray[Any]) -> Dataset:
    """Arrays as data, N inputs with N labels; raises DataProblem, which calls them `name`, if they are not that."""
    if x.dtype not in (np.float32, np.uint8) or y.dtype.kind not in "iu":
        raise DataProblem(f"{name}: x must be float32 or uint8 and y integers, not {x.dtype} and {y.dtype}")
    if y.ndim != 1 or x.ndim < 1 or len(x) != len(y) or not len(y):
        raise DataProblem(f"{name}: x of shape {x.shape} and y of shape {y.shape} are not N samples with N labels")
    return Dataset(Path(name).name, None, x, y.astype(np.int64))


def read_data(source: str, *, download: bool = True) -> Dataset:
    """A data set's test split, or an .npz file with arrays x and y, as stored; raises DataProblem."""
    if source.endswith(".npz"):
        return labelled(source, *_read_npz(Path(source)))
    return datasets.load(source, "test", download=download)


def require_labels(samples: Samples, classes: int) -> None:
    """Raise DataProblem where a label is none of the model's classes."""
    if ((samples.labels < 0) | (samples.labels >= classes)).any():
        raise DataProblem(f"a label of {samples.name} is outside the model's {classes} classes")


def _fitted(x: NDArray[np.float32], shape: Shape, name: str) -> NDArray[np.float32]:
    """x in the model's input shape, where that only means to add or drop axes of length one, or to flatten."""

    def essential(extents: Shape) -> Shape:
        return tuple(size for size in extents if size != 1)

    flat = (int(np.prod(x.shape[1:])),)
    if essential(shape) not in (essential(x.shape[1:]), essential(flat)):
        raise DataProblem(f"the model takes inputs of shape {shape}, but those of {name} have shape {x.shape[1:]}")
    return np.ascontiguousarray(x.reshape(len(x), *shape))


_BROKEN = zipfile.BadZipFile, zlib.error
"""What a damaged archive raises, besides much else."""


def _read_npz(path: Path) -> tuple[NDArray[Any], NDArray[Any]]:
    try:
        with np.load(path, allow_pickle=False) as file:
            return file["x"], file["y"]
    except KeyError as error:
        raise DataProblem(f"{path} does not hold the arrays x and y") from error
    except (OSError, EOFError, ValueError, TypeError, AttributeError, RuntimeError, *_BROKEN) as error:
        raise DataProblem(f"cannot read {path} ({error})") from error
