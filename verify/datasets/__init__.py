"""The standard image data sets, read from their original files.

A data set is looked for in the folder that `ADCERT_DATA` names, then in the package (MNIST ships with it), then in the
download cache, and is downloaded, with its hash checked, when it is nowhere else.
"""

from __future__ import annotations

import gzip
import hashlib
import os
import tarfile
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from verify.errors import Problem


class DataProblem(Problem):
    """A data set is unknown, missing, corrupt, or cannot be downloaded."""


@dataclass(frozen=True)
class Dataset:
    """Images as uint8, N x C x H x W, with labels as int64, N.

    A file of the user's (`verify.tasks.samples.read_data`) has no split, and may hold float32 of any shape instead.
    """

    name: str
    split: str | None
    images: NDArray[Any] = field(repr=False)
    labels: NDArray[np.int64] = field(repr=False)

    @cached_property
    def sha256(self) -> str:
        """Of the images' bytes followed by the labels' bytes."""
        return hashlib.sha256(self.images.tobytes() + self.labels.tobytes()).hexdigest()


@dataclass(frozen=True)
class _Source:
    """Where a data set's files come from: `archive` is unpacked after download, files are downloaded one by one."""

    folder: str
    shape: tuple[int, int, int]
    splits: Mapping[str, tuple[str, ...]]
    read: Callable[[list[Path], _Source], tuple[NDArray[np.uint8], NDArray[np.int64]]]
    url: str
    md5: dict[str, str]
    archive: tuple[str, str] | None = None


def names() -> list[str]:
    """The data sets that `load` knows."""
    return sorted(_SOURCES)


def load(name: str, split: str, *, download: bool = True) -> Dataset:
    """Load one split ("train" or "test") of a data set.

    Raises DataProblem, with one sentence that names the file, when a file is missing and may not or cannot be
    downloaded, or is truncated or corrupt.
    """
    if name not in _SOURCES:
        raise DataProblem(f"unknown data set {name!r}: choose one of {', '.join(names())}")
    source = _SOURCES[name]
    if split not in source.splits:
        raise DataProblem(f"unknown split {split!r} of {name}: choose one of {', '.join(source.splits)}")
    images, labels = source.read(_locate(source, split, download), source)
    return Dataset(name, split, images, labels)


def _locate(source: _Source, split: str, download: bool) -> list[Path]:
    wanted = source.splits[split]
    folders = [Path(__file__).parent / source.folder, _cache() / source.folder]
    if data := os.environ.get("ADCERT_DATA"):
        folders.insert(0, Path(data) / source.folder)
    for folder in folders:
        if all((folder / file).is_file() for file in wanted):
            return [folder / file for file in wanted]
    if not download:
        raise DataProblem(f"{source.folder} is not on this machine")
    _download(source, folders[-1])
    return [folders[-1] / file for file in wanted]


def _cache() -> Path:
    return Path(os.environ.get("ADCERT_CACHE", Path.home() / ".cache" / "adcert")) / "data"


def _download(source: _Source, folder: Path) -> None:
    """Fetch every file of a data set into `folder`, each checked against its published MD5."""
    import pooch
    import requests

    bar = pooch.HTTPDownloader(progressbar=True)
    wanted = dict([source.archive]) if source.archive else source.md5
    try:
        for file, md5 in wanted.items():
            pooch.retrieve(source.url + file, f"md5:{md5}", fname=file, path=folder, downloader=bar)
        if source.archive:
            _unpack(folder / source.archive[0], folder, source.md5)
    except (requests.RequestException, OSError, ValueError, tarfile.TarError) as error:
        raise DataProblem(
            f"{source.folder} is not on this machine and downloading it from {source.url} failed ({error}); "
            f"put its files into the folder {source.folder} of a folder named by ADCERT_DATA"
        ) from error


def _unpack(archive: Path, folder: Path, md5: dict[str, str]) -> None:
    """Write the named members of a tar file, whatever folder they are in, directly into `folder`, then drop the tar."""
    with tarfile.open(archive) as tar:
        members = {Path(member.name).name: member for member in tar.getmembers() if member.isfile()}
        for file, expected in md5.items():
            stream = tar.extractfile(members[file]) if file in members else None
            content = stream.read() if stream else b""
            if hashlib.md5(content, usedforsecurity=False).hexdigest() != expected:
                raise ValueError(f"{file} in {archive.name} is not the published file")
            partial = folder / f"{file}.part"
            partial.write_bytes(content)
            partial.replace(folder / file)
    archive.unlink()


def _read_idx(files: list[Path], source: _Source) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """MNIST's format: an images file and a labels file, big-endian headers, gzip-compressed."""
    images_file, labels_file = files
    labels = _idx_items(labels_file, magic=2049, item_shape=())
    images = _idx_items(images_file, magic=2051, item_shape=source.shape[1:])
    if len(images) != len(labels):
        raise DataProblem(f"{images_file} holds {len(images)} images but {labels_file} {len(labels)} labels")
    return images[:, np.newaxis], labels.astype(np.int64)


def _idx_items(file: Path, *, magic: int, item_shape: tuple[int, ...]) -> NDArray[np.uint8]:
    try:
        content = gzip.decompress(file.read_bytes())
    except (OSError, EOFError, zlib.error) as error:
        raise DataProblem(f"{file} is corrupt or truncated ({error})") from error
    header_size = 8 + 4 * len(item_shape)
    header = np.frombuffer(content[:header_size], dtype=">u4")
    item_size = int(np.prod(item_shape, dtype=np.int64))
    if (
        header.size != header_size // 4
        or header[0] != magic
        or tuple(header[2:]) != item_shape
        or len(content) != header_size + int(header[1]) * item_size
    ):
        raise DataProblem(f"{file} is not a complete IDX file of the expected shape")
    return np.frombuffer(content, np.uint8, offset=header_size).reshape(-1, *item_shape)


def _read_cifar(files: list[Path], source: _Source) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """CIFAR-10's binary version: records of one label byte and the image's bytes, channel by channel.

    The format has no checksum of its own, so the published one is compared.
    """
    record = 1 + int(np.prod(source.shape))
    records = []
    for file in files:
        content = file.read_bytes()
        if hashlib.md5(content, usedforsecurity=False).hexdigest() != source.md5[file.name]:
            raise DataProblem(f"{file} is corrupt or truncated: its MD5 is not the published one")
        records.append(np.frombuffer(content, np.uint8).reshape(-1, record))
    table = np.concatenate(records)
    return table[:, 1:].reshape(-1, *source.shape), table[:, 0].astype(np.int64)


_IDX_SPLITS = {
    "train": ("train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz"),
    "test": ("t10k-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte.gz"),
}
_SOURCES = {
    "mnist": _Source(
        "mnist",
        (1, 28, 28),
        _IDX_SPLITS,
        _read_idx,
        "https://ossci-datasets.s3.amazonaws.com/mnist/",
        {
            "train-images-idx3-ubyte.gz": "f68b3c2dcbeaaa9fbdd348bbdeb94873",
            "train-labels-idx1-ubyte.gz": "d53e105ee54ea40749a09fcbcd1e9432",
            "t10k-images-idx3-ubyte.gz": "9fb629c4189551a2d022fa330f9573f3",
            "t10k-labels-idx1-ubyte.gz": "ec29112dd5afa0611ce80d1b7f02629c",
        },
    ),
    "fashion-mnist": _Source(
        "fashion-mnist",
        (1, 28, 28),
        _IDX_SPLITS,
        _read_idx,
        "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
        {
            "train-images-idx3-ubyte.gz": "8d4fb7e6c68d591d4c3dfef9ec88bf0d",
            "train-labels-idx1-ubyte.gz": "25c81989df183df01b3e8a0aad5dffbe",
            "t10k-images-idx3-ubyte.gz": "bef4ecab320f06d8554ea6380940ec79",
            "t10k-labels-idx1-ubyte.gz": "bb300cfdad3c16e7a12a480ee83cd310",
        },
    ),
    "cifar10": _Source(
        "cifar10",
        (3, 32, 32),
        {
            "train": tuple(f"data_batch_{i}.bin" for i in range(1, 6)),
            "test": ("test_batch.bin",),
        },
        _read_cifar,
        "https://www.cs.toronto.edu/~kriz/",
        {
            "data_batch_1.bin": "5dd7e06a14cb22eb9f671a540d1b7c25",
            "data_batch_2.bin": "5ea93a67294ea407fff1d09f752e9692",
            "data_batch_3.bin": "942cd6a4bcdd0dd3c604fbe906cb4421",
            "data_batch_4.bin": "ae636b3ba5c66a11e91e8cb52e771fcb",
            "data_batch_5.bin": "53f37980c15c3d472c316c40844f3f0d",
            "test_batch.bin": "803d5f7f4d78ea53de84dbe85f74fb6d",
        },
        archive=("cifar-10-binary.tar.gz", "c32a1d4ab5d03f1284b67883e8d87530"),
    ),
}

CLASS_NAMES: Mapping[str, tuple[str, ...]] = {
    "mnist": tuple("0123456789"),
    "fashion-mnist": (
        "T-shirt/top",
        "trouser",
        "pullover",
        "dress",
        "coat",
        "sandal",
        "shirt",
        "sneaker",
        "bag",
        "ankle boot",
    ),
    "cifar10": ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"),
}
"""What the labels 0, 1, ... of a data set mean."""
