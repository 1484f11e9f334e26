"""Each objective against its formula, computed sample by sample."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from adcert import objectives
from adcert.attack import Pgd
from adcert.objectives import OBJECTIVES, Passes
from support.small_networks import images, labels, small_network

COUNT = 6


def passes(**changes: Any) -> Passes:
    x = images(COUNT)
    network = small_network(0)
    settings: dict[str, Any] = {
        "network": network,
        "images": x,
        "labels": labels(COUNT),
        "clean_logits": network(x),
        "radius": 0.05,
        "attack_radius": 0.1,
        "attack": Pgd(2),
        "random": torch.Generator().manual_seed(0),
        "teacher": small_network(1),
    }
    return Passes(**{**settings, **changes})


def total(name: str, alpha: float, given: Passes) -> float:
    return sum(term.item() for term in OBJECTIVES[name].terms(given, alpha).values())


def cross_entropy(logits: Tensor, y: Tensor) -> float:
    """Mean over samples of log sum_j exp(z_j) - z_y."""
    return sum(
        math.log(sum(math.exp(z) for z in row)) - row[label]
        for row, label in zip(logits.tolist(), y.tolist(), strict=True)
    ) / len(logits)


def divergence(teacher: Tensor, student: Tensor) -> float:
    """Mean over samples of sum_j p_j log(p_j / q_j)."""

    def softmax(row: list[float]) -> list[float]:
        weights = [math.exp(z) for z in row]
        return [weight / sum(weights) for weight in weights]

    return sum(
        sum(p * math.log(p / q) for p, q in zip(softmax(t), softmax(s), strict=True))
        for t, s in zip(teacher.tolist(), student.tolist(), strict=True)
    ) / len(teacher)


def ibp_loss(given: Passes) -> float:
    return cross_entropy(-given.margins, given.labels)


@pytest.mark.parametrize("alpha", [0.0, 0.3, 1.0])
def test_ad_cert(alpha: float) -> None:
    given = passes()
    distillation = divergence(given.teacher_logits, given.adversarial_logits)
    expected = alpha * ibp_loss(given) + (1 - alpha) * distillation
    assert total("ad-cert", alpha, given) == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("alpha", [0.0, 0.3, 1.0])
def test_mtl_ibp(alpha: float) -> None:
    given = passes()
    expected = alpha * ibp_loss(given) + (1 - alpha) * cross_entropy(given.adversarial_logits, given.labels)
    assert total("mtl-ibp", alpha, given) == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("alpha", [0.0, 0.3, 1.0])
def test_cc_ibp(alpha: float) -> None:
    given = passes()
    logits, y = given.adversarial_logits, given.labels
    margins = torch.stack([row[label] - row for row, label in zip(logits, y, strict=True)])
    combined = alpha * given.margins + (1 - alpha) * margins
    assert total("cc-ibp", alpha, given) == pytest.approx(cross_entropy(-combined, y), rel=1e-4)


def test_ibp_and_pgd() -> None:
    given = passes()
    assert total("ibp", 0.5, given) == pytest.approx(ibp_loss(given), rel=1e-4)
    adversarial = cross_entropy(given.adversarial_logits, given.labels)
    assert total("pgd", 0.5, given) == pytest.approx(adversarial, rel=1e-4)


def test_without_a_radius_the_upper_bound_is_the_clean_cross_entropy() -> None:
    given = passes(radius=0.0, attack_radius=0.0)
    assert ibp_loss(given) == pytest.approx(cross_entropy(given.clean_logits, given.labels), rel=1e-3)
    torch.testing.assert_close(given.adversarial_logits, given.clean_logits)


@pytest.mark.parametrize("name", ["ad-cert", "mtl-ibp"])
def test_with_alpha_one_neither_attack_nor_teacher_runs(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(objectives, "pgd", None)
    given = passes(teacher=None)
    assert set(OBJECTIVES[name].terms(given, 1.0)) == {"ibp"}
    assert total(name, 1.0, given) == pytest.approx(total("ibp", 1.0, given))


@pytest.mark.parametrize("name", ["ad-cert", "mtl-ibp"])
def test_with_alpha_zero_no_bounds_are_computed(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(objectives, "propagate", None)
    assert "ibp" not in OBJECTIVES[name].terms(passes(), 0.0)


def test_the_teacher_sees_clean_images_and_learns_nothing() -> None:
    given = passes()
    assert given.teacher is not None
    assert torch.equal(given.teacher_logits, given.teacher(given.images))
    assert not given.teacher_logits.requires_grad


def test_bounds_and_attack_each_use_their_own_radius() -> None:
    given = passes(radius=0.02, attack_radius=0.2)
    assert given.bounds.input.radius.max().item() == pytest.approx(0.02, rel=1e-4)
    wide = passes(radius=0.02, attack_radius=0.0)
    assert not torch.allclose(given.adversarial_logits, wide.adversarial_logits, atol=1e-3)
