"""Training data on the device: one uint8 tensor, its held-out end, augmentation, and reproducible batches."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from adcert import processes, sources
from adcert.benchmark import Benchmark
from adcert.problems import RecipeProblem


@dataclass(frozen=True)
class Labelled:
    """Images (N x C x H x W; uint8, or float32 in [0, 1]) and labels (int64, N) on one device."""

    images: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True)
class TrainingData:
    """The training split, its last images held out for the accuracies that are reported while training."""

    benchmark: Benchmark
    fit: Labelled
    held_out: Labelled


def load_training_data(name: str, held_out: int, device: torch.device) -> TrainingData:
    """The training split of data set `name` on `device`, its last `held_out` images set aside."""
    source = sources.load(name)
    if held_out >= len(source.labels):
        raise RecipeProblem(f"held_out = {held_out} leaves nothing of the {len(source.labels)} images of {name}")
    images, labels = torch.tensor(source.images, device=device), torch.tensor(source.labels, device=device)
    fit = Labelled(images[:-held_out], labels[:-held_out])
    return TrainingData(source.benchmark, fit, Labelled(images[-held_out:], labels[-held_out:]))


def unit_range(images: Tensor) -> Tensor:
    """uint8 images as float32 in [0, 1]; float32 images, which are that already, as they are."""
    return images.to(torch.float32) / 255 if images.dtype == torch.uint8 else images


def generator(device: torch.device | str, seed: int, purpose: str, epoch: int = 0) -> torch.Generator:
    """Random numbers that depend on nothing but the arguments: what makes a resumed run equal an uninterrupted one."""
    digest = hashlib.sha256(f"{seed}/{purpose}/{epoch}".encode()).digest()
    return torch.Generator(device).manual_seed(int.from_bytes(digest[:8], "big") >> 1)


def keep(images: Tensor, random: torch.Generator) -> Tensor:
    """No augmentation."""
    return images


def flip_crop(images: Tensor, random: torch.Generator, padding: int = 2) -> Tensor:
    """Flip half of the images horizontally and shift each by up to `padding` pixels, edges repeated (N x C x H x W)."""
    count, _, height, width = images.shape
    shifts = torch.randint(-padding, padding + 1, (2, count, 1), generator=random, device=images.device)
    mirrored = torch.rand(count, 1, generator=random, device=images.device) < 0.5
    rows = (torch.arange(height, device=images.device) + shifts[0]).clamp(0, height - 1)
    columns = (torch.arange(width, device=images.device) + shifts[1]).clamp(0, width - 1)
    columns = torch.where(mirrored, width - 1 - columns, columns)
    samples = torch.arange(count, device=images.device)[:, None, None]
    # Indices around the channel slice put the channels last.
    return images[samples, :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


AUGMENTATIONS: dict[str, Callable[[Tensor, torch.Generator], Tensor]] = {
    "none": keep,
    "flip-crop": flip_crop,
    "flip-crop-4": partial(flip_crop, padding=4),
}


def shuffled_batches(data: Labelled, batch_size: int, random: torch.Generator) -> Iterator[tuple[Tensor, Tensor]]:
    """One epoch of (uint8 images, labels); the images that do not fill a last batch sit this epoch out.

    Of several processes each gets its own rows of every batch; the batches as a whole do not depend on their number.
    """
    # Permuted on the CPU, whose generator gives the same order on every device.
    order = torch.randperm(len(data), generator=random).to(data.labels.device)
    for chosen in order[: len(data) // batch_size * batch_size].reshape(-1, batch_size):
        own = processes.rows(chosen)
        yield data.images[own], data.labels[own]
