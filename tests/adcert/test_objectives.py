"""Each objective against its formula, computed sample by sample, and its gradient against finite differences."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from adcert.attack import Pgd, pgd
from adcert.intervals import box_around, margin_lower_bounds, propagate
from adcert.layers import Convolution, Linear, Network, Normalize, Relu
from adcert.objectives import OBJECTIVES, Passes, Settings, bounding
from adcert.objectives import passes as pass_module
from adcert.problems import NetworkProblem
from support.small_networks import images, labels, small_network

COUNT = 6
WITH_TEACHER = sorted(name for name, objective in OBJECTIVES.items() if objective.needs_teacher)


def passes(**changes: Any) -> Passes:
    x = images(COUNT)
    network = changes.pop("network", small_network(0))
    settings: dict[str, Any] = {
        "network": network,
        "images": x,
        "labels": labels(COUNT),
        "clean_logits": network(x.to(network.last.weight.dtype)),
        "radius": 0.05,
        "final_radius": 0.05,
        "attack_radius": 0.1,
        "attack": Pgd(2),
        "random": torch.Generator().manual_seed(0),
        "teacher": small_network(1),
    }
    return Passes(**{**settings, **changes})


def total(name: str, given: Passes, **settings: float) -> float:
    terms = OBJECTIVES[name].terms(given, Settings(**settings))  # type: ignore[arg-type]
    return sum(term.item() for term in terms.values())


def cross_entropies(logits: Tensor, y: Tensor) -> list[float]:
    """log sum_j exp(z_j) - z_y, sample by sample."""
    return [
        math.log(sum(math.exp(z) for z in row)) - row[label]
        for row, label in zip(logits.tolist(), y.tolist(), strict=True)
    ]


def mean(values: list[float]) -> float:
    return sum(values) / len(values)


def cross_entropy(logits: Tensor, y: Tensor) -> float:
    return mean(cross_entropies(logits, y))


def divergence(teacher: Tensor, student: Tensor) -> float:
    """Mean over samples of sum_j p_j log(p_j / q_j)."""

    def softmax(row: list[float]) -> list[float]:
        weights = [math.exp(z) for z in row]
        return [weight / sum(weights) for weight in weights]

    return mean(
        [
            sum(p * math.log(p / q) for p, q in zip(softmax(t), softmax(s), strict=True))
            for t, s in zip(teacher.tolist(), student.tolist(), strict=True)
        ]
    )


def margins_of(logits: Tensor, y: Tensor) -> Tensor:
    return torch.stack([row[label] - row for row, label in zip(logits, y, strict=True)])


def ibp_loss(given: Passes) -> float:
    return cross_entropy(-given.margins, given.labels)


def attacked_where(given: Passes, slow_loss: Callable[[Tensor], Tensor]) -> Tensor:
    """Where an attack on another loss ends, from the same random start."""
    box = box_around(given.images, given.attack_radius)
    return pgd(given.network, box, slow_loss, given.attack, torch.Generator().manual_seed(0))


def slow_divergences(target: Tensor) -> Callable[[Tensor], Tensor]:
    p = target.detach().softmax(1)
    return lambda logits: (p * (p.log() - logits.softmax(1).log())).sum(1)


# What AD-CERT and its ablations have beside the interval bound.
DISTILLATIONS: dict[str, Callable[[Passes], float]] = {
    "ad-cert": lambda given: divergence(given.teacher_logits, given.adversarial_logits),
    "ad-cert-attacked-teacher": lambda given: divergence(
        given.teach(given.adversarial_images), given.adversarial_logits
    ),
    "ad-cert-soft-attack": lambda given: divergence(
        given.teacher_logits, given.network(attacked_where(given, slow_divergences(given.teacher_logits)))
    ),
    "ad-cert-rslad": lambda given: (
        divergence(given.teacher_logits, given.clean_logits) / 6
        + 5
        / 6
        * divergence(given.teacher_logits, given.network(attacked_where(given, slow_divergences(given.teacher_logits))))
    ),
    "ad-cert-natural": lambda given: divergence(given.teacher_logits, given.clean_logits),
}


@pytest.mark.parametrize("alpha", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("name", DISTILLATIONS)
def test_ad_cert_and_its_ablations(name: str, alpha: float) -> None:
    given = passes()
    found = total(name, given, alpha=alpha)
    expected = alpha * ibp_loss(given) + (1 - alpha) * DISTILLATIONS[name](given)
    assert found == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("alpha", [0.0, 0.3, 1.0])
def test_mtl_ibp(alpha: float) -> None:
    given = passes()
    expected = alpha * ibp_loss(given) + (1 - alpha) * cross_entropy(given.adversarial_logits, given.labels)
    assert total("mtl-ibp", given, alpha=alpha) == pytest.approx(expected, rel=1e-4)


def combined(given: Passes, alpha: float) -> Tensor:
    return alpha * given.margins + (1 - alpha) * margins_of(given.adversarial_logits, given.labels)


@pytest.mark.parametrize("alpha", [0.0, 0.3, 1.0])
def test_cc_ibp(alpha: float) -> None:
    given = passes()
    expected = cross_entropy(-combined(given, alpha), given.labels)
    assert total("cc-ibp", given, alpha=alpha) == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("alpha", [0.0, 0.3, 1.0])
def test_exp_ibp(alpha: float) -> None:
    given = passes()
    attacked = cross_entropy(given.adversarial_logits, given.labels)
    expected = ibp_loss(given) ** alpha * attacked ** (1 - alpha)
    assert total("exp-ibp", given, alpha=alpha) == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("alpha", [0.0, 0.3, 1.0])
def test_cc_dist(alpha: float) -> None:
    given = passes()
    assert given.teacher is not None
    teacher, attacked = given.teacher.body(given.images), given.network.body(given.adversarial_images)
    bounds = given.bounds.features
    worst = []
    for n in range(COUNT):
        for j in range(8):
            ends = [
                alpha * end + (1 - alpha) * attacked[n, j].item()
                for end in (bounds.lower[n, j].item(), bounds.upper[n, j].item())
            ]
            worst.append(max((end - teacher[n, j].item()) ** 2 for end in ends))
    # (5/d) sum_j, a mean over the batch.
    expected = cross_entropy(-combined(given, alpha), given.labels) + 5 / 8 * sum(worst) / COUNT
    assert total("cc-dist", given, alpha=alpha) == pytest.approx(expected, rel=1e-4)


def test_cc_dist_needs_features_of_one_size() -> None:
    # Without the hidden layer: its last layer reads 36 features.
    shallow = Linear(torch.zeros(5, 36), torch.zeros(5))
    teacher = Network((*small_network(1).steps[:4], replace(small_network(1).steps[4], layer=shallow)))
    with pytest.raises(NetworkProblem, match="the teacher has 36, the student 8"):
        total("cc-dist", passes(teacher=teacher), alpha=0.5)


def slow_cc_ad(given: Passes, alpha: float) -> float:
    """The mean of log sum_j exp v_j - H(p), every bound of an excess summed weight by weight."""
    last, bounds = given.network.last, given.bounds.features
    losses = []
    for n, p in enumerate(given.teacher_logits.softmax(1).tolist()):
        z = given.adversarial_logits[n].tolist()
        mixed = []
        for j in range(len(p)):
            bound = last.bias[j].item() - sum(q * b for q, b in zip(p, last.bias.tolist(), strict=True))
            for f in range(last.weight.shape[1]):
                weight = last.weight[j, f].item() - sum(q * last.weight[k, f].item() for k, q in enumerate(p))
                ends = bounds.lower[n, f].item(), bounds.upper[n, f].item()
                bound += max(weight * end for end in ends)
            excess = z[j] - sum(q * logit for q, logit in zip(p, z, strict=True))
            mixed.append(alpha * bound + (1 - alpha) * excess)
        losses.append(math.log(sum(map(math.exp, mixed))) + sum(q * math.log(q) for q in p))
    return mean(losses)


@pytest.mark.parametrize("alpha", [0.0, 0.3, 1.0])
def test_cc_ad(alpha: float) -> None:
    given = passes()
    assert total("cc-ad", given, alpha=alpha) == pytest.approx(slow_cc_ad(given, alpha), rel=1e-4)


def test_cc_ad_spans_the_distillation_and_a_bound_of_it() -> None:
    given = passes(attack_radius=0.05)  # x_adv is in the certified box
    losses = [total("cc-ad", given, alpha=share / 10) for share in range(11)]
    assert losses == sorted(losses)
    assert losses[0] == pytest.approx(divergence(given.teacher_logits, given.adversarial_logits), rel=1e-4)
    random = torch.Generator().manual_seed(0)
    worst = pgd(given.network, given.box, slow_divergences(given.teacher_logits), Pgd(20, 3), random)
    assert losses[0] < divergence(given.teacher_logits, given.network(worst)) <= losses[-1]


def test_cc_ad_under_a_teacher_that_is_sure_of_the_labels_is_cc_ibp() -> None:
    given = passes()
    sure = 200 * torch.nn.functional.one_hot(given.labels, given.clean_logits.shape[1]).float()
    given.__dict__["teacher_logits"] = sure
    for alpha in (0.0, 0.3, 1.0):
        assert total("cc-ad", given, alpha=alpha) == pytest.approx(total("cc-ibp", given, alpha=alpha), rel=1e-4)


def test_ibp_pgd_and_standard() -> None:
    given = passes()
    assert total("ibp", given) == pytest.approx(ibp_loss(given), rel=1e-4)
    adversarial = cross_entropy(given.adversarial_logits, given.labels)
    assert total("pgd", given) == pytest.approx(adversarial, rel=1e-4)
    assert total("standard", given) == pytest.approx(cross_entropy(given.clean_logits, given.labels), rel=1e-4)


def test_trades() -> None:
    given = passes()
    found = total("trades", given, trades_weight=2.0)
    attacked = given.network(attacked_where(given, slow_divergences(given.clean_logits)))
    expected = cross_entropy(given.clean_logits, given.labels) + 2 * divergence(given.clean_logits, attacked)
    assert found == pytest.approx(expected, rel=1e-4)


def slow_bounds(network: Network, lower: Tensor, upper: Tensor, shrink: float) -> tuple[Tensor, Tensor]:
    """Of the features, with weights split by sign, and upper bounds of unstable neurons multiplied by `shrink`."""
    for layer in network.body.layers:
        match layer:
            case Normalize(mean, std):
                lower, upper = (lower - mean) / std, (upper - mean) / std
            case Convolution() | Linear():
                positive = Network.chain(replace(layer, weight=layer.weight.clamp(min=0)))
                negative = Network.chain(
                    replace(layer, weight=layer.weight.clamp(max=0), bias=torch.zeros_like(layer.bias))
                )
                lower, upper = positive(lower) + negative(upper), positive(upper) + negative(lower)
            case Relu():
                unstable = (lower < 0) & (upper > 0)
                lower, upper = lower.clamp(min=0), upper.clamp(min=0)
                upper = torch.where(unstable, shrink * upper, upper)
            case _:
                lower, upper = lower.flatten(1), upper.flatten(1)
    return lower, upper


@pytest.mark.parametrize(("small_box", "shrink"), [(1.0, 1.0), (0.4, 1.0), (0.1, 0.8)])
def test_sabr(small_box: float, shrink: float) -> None:
    given = passes()
    centre = given.images + (given.adversarial_images - given.images).clamp(
        -(1 - small_box) * given.radius, (1 - small_box) * given.radius
    )
    box = [(centre + sign * small_box * given.radius).clamp(0, 1) for sign in (-1, 1)]
    assert bool((box[0] >= given.box.lower - 1e-6).all() and (box[1] <= given.box.upper + 1e-6).all())
    lower, upper = slow_bounds(given.network, *box, shrink)
    last, margins = given.network.last, torch.zeros(COUNT, 5)
    for n, label in enumerate(given.labels.tolist()):
        for j in range(5):
            row = last.weight[label] - last.weight[j]
            ends = torch.where(row > 0, row * lower[n], row * upper[n])
            margins[n, j] = ends.sum() + last.bias[label] - last.bias[j]
    found = total("sabr", given, small_box=small_box, relu_shrink=shrink)
    assert found == pytest.approx(cross_entropy(-margins, given.labels), rel=1e-4)


def trainable() -> Network:
    return small_network(0).map_tensors(lambda tensor: tensor.clone().requires_grad_())


def gradients(terms: dict[str, Tensor], network: Network) -> list[Tensor]:
    weights = [layer.weight for layer in network.layers if isinstance(layer, Convolution | Linear)]
    return list(torch.autograd.grad(sum(terms.values()), weights))  # type: ignore[arg-type]


@pytest.mark.parametrize("scale", [1.0, 4.0])
def test_taps_of_a_linear_tail_is_the_square_of_ibp(scale: float) -> None:
    """Its attack ends in the corners that interval bounds of the margins come from, and so does its gradient."""
    network = trainable()
    given = passes(network=network, attack=Pgd(1))
    terms = OBJECTIVES["taps"].terms(given, Settings(attacked_layers=1, gradient_scale=scale))
    ibp_terms = OBJECTIVES["ibp"].terms(passes(network=network), Settings())
    loss = ibp_terms["ibp"].item()
    assert terms["taps"].item() == pytest.approx(loss**2, rel=1e-4)
    for ours, of_ibp in zip(gradients(terms, network), gradients(ibp_terms, network), strict=True):
        # L_ibp * scale * grad L_taps + L_taps * grad L_ibp
        torch.testing.assert_close(ours, (scale + 1) * loss * of_ibp, rtol=1e-3, atol=1e-5)


def test_the_margins_that_taps_attacks_are_attained_in_the_latent_box() -> None:
    given = passes(attack=Pgd(8, restarts=2))
    head, tail = given.network.split(2)
    attacked = bounding._attacked_margins(given, tail, given.bounds.values[len(head.steps)])
    assert bool((attacked >= given.margins - 1e-5).all())
    inside = margins_of(tail(head(given.images)), given.labels)
    assert bool((attacked <= inside + 1e-5).all())
    assert bool((attacked.gather(1, given.labels[:, None]) == 0).all())


def test_gradients_reach_the_side_of_a_box_that_is_near() -> None:
    lower, upper = torch.zeros(5, requires_grad=True), torch.ones(5, requires_grad=True)
    linked = bounding._Link.apply(lower, upper, torch.tensor([0.0, 0.1, 0.5, 0.75, 1.0]))  # type: ignore[no-untyped-call]
    linked.sum().backward()
    assert lower.grad is not None
    assert upper.grad is not None
    torch.testing.assert_close(lower.grad, torch.tensor([1, 0.8, 0, 0, 0]))
    torch.testing.assert_close(upper.grad, torch.tensor([0, 0, 0, 0.5, 1]))


@pytest.mark.parametrize(("name", "settings"), [("taps", Settings()), ("staps", Settings(small_box=1.0))])
def test_taps_is_ibp_while_the_radius_grows(name: str, settings: Settings) -> None:
    given = passes(final_radius=0.1, attack_radius=0.0)
    terms = OBJECTIVES[name].terms(given, settings)
    assert terms["ibp"].item() == pytest.approx(ibp_loss(given), rel=1e-4)


@pytest.mark.parametrize("name", ["taps", "staps"])
def test_a_network_that_taps_cannot_cut_is_refused_before_the_radius_has_grown(name: str) -> None:
    with pytest.raises(NetworkProblem, match="cannot attack 9 of the"):
        OBJECTIVES[name].terms(passes(final_radius=0.1), Settings(attacked_layers=9))


def test_staps_is_taps_over_the_small_box() -> None:
    settings = Settings(small_box=0.3, attacked_layers=1)
    given = passes(attack=Pgd(1))
    terms = OBJECTIVES["staps"].terms(given, settings)
    sabr = OBJECTIVES["sabr"].terms(passes(attack=Pgd(1)), settings)
    assert terms["taps"].item() == pytest.approx(sabr["sabr"].item() ** 2, rel=1e-4)


@pytest.mark.parametrize(("radius", "weight", "share"), [(0.0, 0.0, 1.0), (0.025, 0.0, 0.5), (0.05, 0.2, 0.2)])
def test_crown_ibp_mixes_two_bounds(radius: float, weight: float, share: float) -> None:
    given = passes(radius=radius)
    pure = passes(radius=radius)
    rows, offsets = bounding.margin_rows(pure.network.last, pure.labels)
    crown = bounding.lower_bounds(pure.network, pure.bounds, rows, offsets)
    expected = cross_entropy(-(share * crown + (1 - share) * pure.margins), given.labels)
    assert total("crown-ibp", given, crown_weight=weight) == pytest.approx(expected, rel=1e-4)


def test_fused_crown_ibp_bounds_the_loss_in_the_whole_box() -> None:
    given = passes()
    fused = total("crown-ibp-fused", given)
    random = torch.Generator().manual_seed(0)
    for _ in range(100):
        share = torch.rand(given.images.shape, generator=random)
        point = given.box.lower + share * (given.box.upper - given.box.lower)
        assert cross_entropy(given.network(point), given.labels) <= fused
    worst = pgd(given.network, given.box, bounding_loss(given.labels), Pgd(20, 3), random)
    assert cross_entropy(given.network(worst), given.labels) <= fused


def bounding_loss(y: Tensor) -> Callable[[Tensor], Tensor]:
    return lambda logits: torch.nn.functional.cross_entropy(logits, y, reduction="none")


@pytest.mark.parametrize("name", ["crown-ibp", "crown-ibp-fused", "sabr", "ibp"])
def test_without_a_radius_every_bound_is_the_clean_cross_entropy(name: str) -> None:
    given = passes(radius=0.0, attack_radius=0.0)
    clean = cross_entropy(given.clean_logits, given.labels)
    assert total(name, given) == pytest.approx(clean, rel=1e-3)
    torch.testing.assert_close(given.adversarial_logits, given.clean_logits)


def test_fused_crown_ibp_survives_bounds_beyond_the_range_of_exp() -> None:
    last = small_network(0).steps[-1]
    assert isinstance(last.layer, Linear)
    wild = replace(last, layer=replace(last.layer, weight=1e4 * last.layer.weight))
    network = Network((*small_network(0).steps[:-1], wild)).map_tensors(lambda t: t.clone().requires_grad_())
    terms = OBJECTIVES["crown-ibp-fused"].terms(passes(network=network), Settings())
    assert all(bool(gradient.isfinite().all()) for gradient in gradients(terms, network))
    assert 1e3 < terms["crown-ibp"].item() < 1e7


# TAPS's gradient is deliberately not that of its loss; it has tests of its own.
DIFFERENTIABLE = sorted({*OBJECTIVES} - {"taps", "staps"})


@pytest.mark.parametrize("name", DIFFERENTIABLE)
def test_gradients_are_those_of_the_loss(name: str) -> None:
    """Along a random direction of all weights, against central differences in float64; attacks stay where they are."""
    base = small_network(0).map_tensors(Tensor.double)
    settings = Settings(alpha=0.4, small_box=0.5, crown_weight=0.5, relu_shrink=0.9)
    random = torch.Generator().manual_seed(1)
    directions = [
        torch.randn(layer.weight.shape, generator=random, dtype=torch.float64)
        for layer in base.layers
        if isinstance(layer, Convolution | Linear)
    ]

    def moved(distance: Tensor) -> Network:
        remaining = iter(directions)
        steps = [
            replace(step, layer=replace(step.layer, weight=step.layer.weight + distance * next(remaining)))
            if isinstance(step.layer, Convolution | Linear)
            else step
            for step in base.steps
        ]
        return Network(tuple(steps))

    attacked = passes(network=base, images=images(COUNT).double(), teacher=small_network(1).map_tensors(Tensor.double))

    def loss(distance: Tensor) -> Tensor:
        given = replace(attacked, network=moved(distance), clean_logits=moved(distance)(attacked.images))
        given.__dict__["adversarial_images"] = attacked.adversarial_images
        return torch.stack(list(OBJECTIVES[name].terms(given, settings).values())).sum()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pass_module, "pgd", lambda *_: attacked.__dict__["adversarial_images"])
        attacked.__dict__["adversarial_images"] = box_around(attacked.images, 0.1).upper
        at = torch.zeros((), dtype=torch.float64, requires_grad=True)
        (slope,) = torch.autograd.grad(loss(at), at)
        step = torch.tensor(1e-6, dtype=torch.float64)
        difference = (loss(step) - loss(-step)) / (2 * step)
    assert slope.item() == pytest.approx(difference.item(), rel=1e-4, abs=1e-7)


@pytest.mark.parametrize("name", ["mtl-ibp", *DISTILLATIONS])
def test_with_alpha_one_neither_attack_nor_teacher_runs(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pass_module, "pgd", None)
    given = passes(teacher=None)
    assert set(OBJECTIVES[name].terms(given, Settings(alpha=1.0))) == {"ibp"}
    assert total(name, given, alpha=1.0) == pytest.approx(total("ibp", given))


@pytest.mark.parametrize("name", ["mtl-ibp", "cc-ibp", "cc-dist", "cc-ad", *DISTILLATIONS])
def test_with_alpha_zero_no_bounds_are_computed(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pass_module, "propagate", None)
    assert "ibp" not in OBJECTIVES[name].terms(passes(), Settings(alpha=0.0))


def test_the_teacher_sees_clean_images_and_learns_nothing() -> None:
    given = passes()
    assert given.teacher is not None
    assert torch.equal(given.teacher_logits, given.teacher(given.images))
    assert not given.teacher_logits.requires_grad


@pytest.mark.parametrize("name", WITH_TEACHER)
def test_objectives_that_need_a_teacher_use_it(name: str) -> None:
    with pytest.raises(AssertionError):
        total(name, passes(teacher=None), alpha=0.5)
    assert total(name, passes(), alpha=0.5) != total(name, passes(teacher=small_network(2)), alpha=0.5)


def test_bounds_and_attack_each_use_their_own_radius() -> None:
    given = passes(radius=0.02, attack_radius=0.2)
    assert given.bounds.input.radius.max().item() == pytest.approx(0.02, rel=1e-4)
    wide = passes(radius=0.02, attack_radius=0.0)
    assert not torch.allclose(given.adversarial_logits, wide.adversarial_logits, atol=1e-3)


def test_margins_of_the_passes_are_those_of_the_bounds() -> None:
    given = passes()
    expected = margin_lower_bounds(propagate(given.network, given.box).features, given.network.last, given.labels)
    torch.testing.assert_close(given.margins, expected)
