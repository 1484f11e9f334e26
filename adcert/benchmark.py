"""What networks have to know of a data set, and that of the standard ones."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Benchmark:
    """What a network has to know of a data set: image shape (C, H, W), classes, and the statistics of its channels."""

    shape: tuple[int, int, int]
    classes: int
    mean: tuple[float, ...]
    std: tuple[float, ...]


BENCHMARKS = {
    "mnist": Benchmark((1, 28, 28), 10, (0.1307,), (0.3081,)),
    "fashion-mnist": Benchmark((1, 28, 28), 10, (0.2860,), (0.3530,)),
    "cifar10": Benchmark((3, 32, 32), 10, (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)),
}
