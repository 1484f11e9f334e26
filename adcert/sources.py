"""Where training images come from: a standard data set by name, an .npz file, or a folder of images."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from adcert.benchmark import BENCHMARKS, Benchmark
from verify import datasets
from verify.datasets import DataProblem
from verify.tasks.samples import read_data

IMAGE_FILES = (".png", ".jpg", ".jpeg", ".bmp")


@dataclass(frozen=True)
class Source:
    """images: N x C x H x W, uint8, or float32 in [0, 1]. labels: int64, N."""

    images: NDArray[Any]
    labels: NDArray[np.int64]
    benchmark: Benchmark


def is_source(name: str) -> bool:
    """Whether `name` is that of a standard data set, an .npz file or a folder; the latter need not exist (yet)."""
    return name in BENCHMARKS or is_own(name)


def is_own(name: str) -> bool:
    """Whether `name` means the user's own data: FILE.npz, or a path to a folder (with a slash, or existing)."""
    return name not in BENCHMARKS and (name.endswith(".npz") or "/" in name or Path(name).is_dir())


def load(name: str) -> Source:
    """The training images of `name`.

    FILE.npz holds x (N x C x H x W; uint8, or float32 in [0, 1]) and y (int64, N; 0, 1, 2 ... without gaps); a folder
    holds one folder of images, all of one size, per class, in the order of their names. The samples of these are put
    into a random but fixed order, since files are often sorted by class and the last samples are held out. Raises
    DataProblem.
    """
    if not is_own(name):
        split = datasets.load(name, "train")
        return Source(split.images, split.labels, BENCHMARKS[name])
    images, labels = _read_npz(Path(name)) if name.endswith(".npz") else _read_folder(Path(name))
    order = np.random.default_rng(0).permutation(len(labels))
    images, labels = images[order], labels[order]
    if not labels.any():
        raise DataProblem(f"{name} holds a single class")
    return Source(images, labels, _described(images, labels))


def fingerprint(name: str) -> str:
    """What tells contents of the same name apart: a SHA-256 for the user's own data. Raises DataProblem."""
    if not is_own(name):
        return ""
    digest = hashlib.sha256()
    root = Path(name)
    try:
        for file in [root] if name.endswith(".npz") else _image_files(root):
            digest.update(f"{file.relative_to(root)}\0{file.stat().st_size}\0".encode() + file.read_bytes())
    except OSError as error:
        raise DataProblem(f"cannot read {name}: {error.strerror or error}") from None
    return digest.hexdigest()


def _described(images: NDArray[Any], labels: NDArray[np.int64]) -> Benchmark:
    """Channel statistics on the scale of [0, 1], in float64."""
    scale = 255 if images.dtype == np.uint8 else 1
    mean = images.mean((0, 2, 3), dtype=np.float64) / scale
    # A channel that never changes is only shifted.
    std = np.where((spread := images.std((0, 2, 3), dtype=np.float64) / scale) > 0, spread, 1.0)
    channels, height, width = images.shape[1:]
    return Benchmark((channels, height, width), int(labels.max()) + 1, tuple(mean.tolist()), tuple(std.tolist()))


def _read_npz(path: Path) -> tuple[NDArray[Any], NDArray[np.int64]]:
    data = read_data(str(path))
    x, y = data.images, data.labels
    if x.ndim != 4 or not x.size:
        raise DataProblem(f"{path}: x of shape {x.shape} are not N x C x H x W")
    if x.shape[1] == x.shape[2] and x.shape[3] in (1, 3):
        raise DataProblem(f"{path}: x of shape {x.shape} have their channels last, not N x C x H x W")
    if x.dtype == np.float32 and not (x.min() >= 0 and x.max() <= 1):
        raise DataProblem(f"{path}: float32 images must lie in [0, 1], normalisation belongs to the network")
    classes = np.unique(y)
    if classes[0] < 0:
        raise DataProblem(f"{path}: labels count from 0, not from {classes[0]}")
    if len(wrong := np.flatnonzero(classes != np.arange(len(classes)))):
        raise DataProblem(f"{path}: labels count from 0 without gaps: there is {classes[wrong[0]]}, but no {wrong[0]}")
    return x, y


def _image_files(root: Path) -> list[Path]:
    """All but hidden ones, which other programs leave behind."""
    files = sorted(file for file in root.rglob("*") if file.suffix.lower() in IMAGE_FILES)
    return [file for file in files if not any(part.startswith(".") for part in file.relative_to(root).parts)]


def _read_folder(root: Path) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    try:
        from PIL import Image
    except ModuleNotFoundError:
        raise DataProblem("reading images needs Pillow: pip install 'adcert[images]'") from None
    files = [file for file in _image_files(root) if file.parent != root]
    if not files:
        raise DataProblem(f"{root} is not a folder with a folder of images for each class")
    classes = sorted(entry.name for entry in root.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    if empty := sorted(set(classes) - {file.relative_to(root).parts[0] for file in files}):
        raise DataProblem(f"{root / empty[0]} holds no images ({', '.join(IMAGE_FILES)})")
    numbers = {name: number for number, name in enumerate(classes)}
    images = []
    try:
        for file in files:
            with Image.open(file) as image:
                if image.mode[0] in "IF":  # which Pillow would clip to white
                    raise DataProblem(f"{file} has more than eight bits per channel")
                images.append(np.asarray(image if image.mode == "L" else image.convert("RGB")))
            if images[-1].shape[:2] != images[0].shape[:2]:
                raise DataProblem(f"{file} and {files[0]} differ in size")
    except OSError as error:
        raise DataProblem(f"cannot read {file} ({error})") from None
    channels = max(1 if image.ndim == 2 else 3 for image in images)
    # Grey images among colours have the same value in each channel.
    planes = [np.broadcast_to(image.reshape(*image.shape[:2], -1), (*image.shape[:2], channels)) for image in images]
    pixels = np.stack(planes).transpose(0, 3, 1, 2)
    labels = np.array([numbers[file.relative_to(root).parts[0]] for file in files], np.int64)
    return np.ascontiguousarray(pixels), labels
