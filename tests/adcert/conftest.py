"""A small data set of real digits and a recipe that trains on it in seconds."""

from __future__ import annotations

import gzip
import struct
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from verify import datasets

TRAINING_IMAGES = 200
RECIPE = """
dataset = "mnist"
model = "cnn-small"
objective = "ad-cert"
eps = "1/10"
alpha = 0.5
robust_weight = 0.7
epochs = 3
batch_size = 32
learning_rate = 1e-3
lr_milestones = [2]
ramp_end = 2
regularizer = 0.5
l1 = 1e-6
init = "ibp"
statistics = "population"
held_out = 40
evaluation_steps = 2

[teacher]
epochs = 2
lr_milestones = [1]
"""


@pytest.fixture(scope="session")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for ADCERT_DATA with the first images of MNIST's training split, in MNIST's own format."""
    whole = datasets.load("mnist", "train")
    images, labels = whole.images[:TRAINING_IMAGES, 0], whole.labels[:TRAINING_IMAGES].astype(np.uint8)
    folder = tmp_path_factory.mktemp("data")
    (folder / "mnist").mkdir()
    for name in ("train", "t10k"):
        files = {
            f"{name}-images-idx3-ubyte.gz": struct.pack(">4i", 2051, len(images), 28, 28) + images.tobytes(),
            f"{name}-labels-idx1-ubyte.gz": struct.pack(">2i", 2049, len(labels)) + labels.tobytes(),
        }
        for file, content in files.items():
            (folder / "mnist" / file).write_bytes(gzip.compress(content))
    return folder


@pytest.fixture(autouse=True)
def small_world(digits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Only the small data set and an empty cache are in reach, for subprocesses too."""
    monkeypatch.setenv("ADCERT_DATA", str(digits))
    monkeypatch.setenv("ADCERT_CACHE", str(tmp_path / "cache"))
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def recipe_text() -> str:
    return RECIPE


@pytest.fixture
def recipe_file(tmp_path: Path, recipe_text: str) -> Path:
    path = tmp_path / "small.toml"
    path.write_text(recipe_text)
    return path
