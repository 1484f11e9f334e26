"""PGD: inside its box, with the published step sizes, keeping the worst image per sample."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from adcert.attack import TOGETHER, Pgd, cross_entropy_with, step_sizes
from adcert.attack import pgd as attack
from adcert.intervals import Box, box_around
from adcert.layers import Flatten, Linear, Network
from support.small_networks import images, labels, small_network


def pgd(network: Network, box: Box, y: torch.Tensor, settings: Pgd, random: torch.Generator) -> torch.Tensor:
    return attack(network, box, cross_entropy_with(y), settings, random)


@pytest.mark.parametrize(
    ("steps", "expected"),
    [
        (1, [2.0]),
        (4, [0.5] * 4),
        (10, [0.25] * 10),
        (12, [0.25] * 10 + [0.05] * 2),
        (20, [0.25] * 14 + [0.025] * 6),
        (50, [0.25] * 25 + [0.025] * 15 + [0.0025] * 5 + [0.00025] * 5),
    ],
)
def test_step_sizes(steps: int, expected: list[float]) -> None:
    assert step_sizes(steps) == pytest.approx(expected)


@pytest.mark.parametrize("settings", [Pgd(1), Pgd(3, restarts=2), Pgd(12)])
def test_it_stays_inside_the_box(settings: Pgd) -> None:
    box = box_around(images(16), 0.3)
    attacked = pgd(small_network(), box, labels(16), settings, torch.Generator().manual_seed(0))
    assert bool((attacked >= box.lower).all() and (attacked <= box.upper).all())


def test_starts_that_run_together_are_those_that_run_one_by_one() -> None:
    network, y = small_network(), labels(8)
    box = box_around(images(8), 0.3)
    alone = torch.Generator().manual_seed(0)
    single = [pgd(network, box, y, Pgd(3), alone) for _ in range(TOGETHER + 1)]
    together = pgd(network, box, y, Pgd(3, TOGETHER + 1), torch.Generator().manual_seed(0))
    losses = torch.stack([F.cross_entropy(network(x), y, reduction="none") for x in single])
    expected = torch.stack(single)[losses.argmax(0), torch.arange(8)]
    torch.testing.assert_close(together, expected)


def test_reduced_precision_finds_almost_the_same_losses_inside_the_box() -> None:
    network, x, y = small_network(), images(64), labels(64)
    box = box_around(x, 0.2)
    losses = []
    for precision in (torch.float32, torch.bfloat16):
        attacked = pgd(network, box, y, Pgd(5, precision=precision), torch.Generator().manual_seed(0))
        assert attacked.dtype == torch.float32
        assert bool((attacked >= box.lower).all() and (attacked <= box.upper).all())
        losses.append(F.cross_entropy(network(attacked), y))
    assert losses[0] != losses[1]
    torch.testing.assert_close(losses[1], losses[0], rtol=0.02, atol=0)


def linear_network() -> Network:
    weight = torch.randn(3, 8, generator=torch.Generator().manual_seed(1))
    return Network.chain(Flatten(), Linear(weight, torch.zeros(3)))


def test_a_single_step_on_a_linear_network_ends_in_the_worst_corner() -> None:
    network = linear_network()
    two_classes = Network.chain(Flatten(), Linear(network.last.weight[:2], torch.zeros(2)))
    lower = torch.rand(5, 2, 2, 2, generator=torch.Generator().manual_seed(2))
    box, y = Box(lower, lower + 0.5), torch.tensor([0, 1, 0, 1, 0])
    attacked = pgd(two_classes, box, y, Pgd(1), torch.Generator().manual_seed(0))
    towards = (network.last.weight[1] - network.last.weight[0]).reshape(2, 2, 2) * (1 - 2 * y).reshape(5, 1, 1, 1)
    torch.testing.assert_close(attacked, torch.where(towards > 0, box.upper, box.lower), rtol=0, atol=0)


def test_starts_are_uniform_in_the_box() -> None:
    flat = Network.chain(Flatten(), Linear(torch.zeros(2, 1000), torch.zeros(2)))
    box = Box(torch.full((1, 1, 10, 100), 0.2), torch.full((1, 1, 10, 100), 0.6))
    start = pgd(flat, box, torch.tensor([0]), Pgd(1), torch.Generator().manual_seed(0))  # no gradient: nothing moves
    assert start.min() < 0.22
    assert start.max() > 0.58
    assert start.mean().item() == pytest.approx(0.4, abs=0.01)


def test_more_restarts_and_steps_only_ever_find_worse_images() -> None:
    network, x, y = small_network(), images(32), labels(32)
    box = box_around(x, 0.2)

    def loss(settings: Pgd) -> torch.Tensor:
        attacked = pgd(network, box, y, settings, torch.Generator().manual_seed(0))
        return F.cross_entropy(network(attacked), y, reduction="none")

    # The first start of both is the same, so the worst over three includes the worst over one.
    assert bool((loss(Pgd(3, restarts=3)) >= loss(Pgd(3)) - 1e-6).all())
    assert loss(Pgd(10, restarts=3)).mean() > F.cross_entropy(network(x), y)


@pytest.mark.parametrize("restarts", [1, 2, TOGETHER + 1])
def test_the_result_is_the_worst_of_all_iterates(restarts: int, monkeypatch: pytest.MonkeyPatch) -> None:
    network, y = small_network(), labels(8)
    seen: list[torch.Tensor] = []
    original = Network.__call__

    def recording(self: Network, x: torch.Tensor) -> torch.Tensor:
        seen.extend(x.detach().clone().split(8))
        return original(self, x)

    monkeypatch.setattr(Network, "__call__", recording)
    attacked = pgd(network, box_around(images(8), 0.3), y, Pgd(5, restarts), torch.Generator().manual_seed(0))
    monkeypatch.undo()
    assert len(seen) == restarts * (5 + 1)
    losses = torch.stack([F.cross_entropy(network(x), y, reduction="none") for x in seen])
    torch.testing.assert_close(F.cross_entropy(network(attacked), y, reduction="none"), losses.amax(0))
