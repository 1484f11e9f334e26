"""Where training images come from: a standard data set by name, an .npz file, or a folder of images."""

from __future__ import annotations

import hashlib
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from adcert.data import BENCHMARKS, Benchmark
from verify import datasets
from verify.datasets import DataProblem

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

    FILE.npz holds x (N x C x H x W; uint8, or float32 in [0, 1]) and y (int64, N); a folder holds one folder of images,
    all of one size, per class, in the order of their names. The samples of these are put into a random but fixed order,
    since files are often sorted by class and the last samples are held out. Raises DataProblem.
    """
    if not is_own(name):
        split = datasets.load(name, "train")
        return Source(split.images, split.labels, BENCHMARKS[name])
    images, labels = _read_npz(Path(name)) if name.endswith(".npz") else _read_folder(Path(name))
    order = np.random.default_rng(0).permutation(len(labels))
    images, labels = images[order], labels[order]
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
    try:
        with np.load(path, allow_pickle=False) as file:
            x, y = file["x"], file["y"]
    except KeyError:
        raise DataProblem(f"{path} does not hold the arrays x and y") from None
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise DataProblem(f"cannot read {path} ({error})") from None
    if x.dtype not in (np.float32, np.uint8) or y.dtype.kind not in "iu":
        raise DataProblem(f"{path}: x must be float32 or uint8 and y integers, not {x.dtype} and {y.dtype}")
    if x.ndim != 4 or y.ndim != 1 or len(x) != len(y) or not x.size:
        raise DataProblem(f"{path}: x of shape {x.shape} and y of shape {y.shape} are not N x C x H x W with N labels")
    if y.min() < 0:
        raise DataProblem(f"{path}: labels count from 0, not from {y.min()}")
    if x.dtype == np.float32 and not (x.min() >= 0 and x.max() <= 1):
        raise DataProblem(f"{path}: float32 images must lie in [0, 1], normalisation belongs to the network")
    return x, y.astype(np.int64)


def _image_files(root: Path) -> list[Path]:
    return sorted(file for file in root.rglob("*") if file.suffix.lower() in IMAGE_FILES)


def _read_folder(root: Path) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    try:
        from PIL import Image
    except ModuleNotFoundError:
        raise DataProblem("reading images needs Pillow: pip install 'adcert[images]'") from None
    files = [file for file in _image_files(root) if file.parent != root]
    if not files:
        raise DataProblem(f"{root} is not a folder with a folder of images for each class")
    classes = sorted({file.relative_to(root).parts[0] for file in files})
    numbers = {name: number for number, name in enumerate(classes)}
    images = []
    try:
        for file in files:
            with Image.open(file) as image:
                images.append(np.asarray(image if image.mode == "L" else image.convert("RGB")))
            if images[-1].shape != images[0].shape:
                raise DataProblem(f"{file} and {files[0]} differ in size or in the number of channels")
    except OSError as error:
        raise DataProblem(f"cannot read {file} ({error})") from None
    pixels = np.stack(images)
    pixels = pixels[:, np.newaxis] if pixels.ndim == 3 else pixels.transpose(0, 3, 1, 2)
    labels = np.array([numbers[file.relative_to(root).parts[0]] for file in files], np.int64)
    return np.ascontiguousarray(pixels), labels
