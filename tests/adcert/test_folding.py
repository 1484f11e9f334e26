"""Folding means what `nn.BatchNorm` means, in train and in eval mode, and takes its statistics from the clean batch."""

from __future__ import annotations

import copy

import torch
from torch import nn

from adcert.data import Labelled
from adcert.folding import _moments, fold_batch, fold_running
from adcert.statistics import population
from adcert.tracing import trace
from support.small_networks import images, small_model


def test_in_eval_mode_the_folded_network_is_the_model() -> None:
    model = small_model().eval()
    torch.testing.assert_close(fold_running(trace(model))(images(9)), model(images(9)), rtol=1e-5, atol=1e-5)


def test_in_train_mode_logits_and_running_statistics_are_those_of_the_model() -> None:
    model, reference = small_model().train(), small_model().train()
    network, logits = fold_batch(trace(model), images(9))
    expected = reference(images(9))
    torch.testing.assert_close(logits, expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(network(images(9)), expected, rtol=1e-5, atol=1e-5)
    for name in ("2.running_mean", "2.running_var", "6.running_mean", "6.running_var"):
        torch.testing.assert_close(model.state_dict()[name], reference.state_dict()[name])


def test_gradients_flow_through_the_batch_statistics_as_in_the_model() -> None:
    model, reference = small_model().train(), small_model().train()
    network, _ = fold_batch(trace(model), images(9))
    network(images(9)).square().sum().backward()
    reference(images(9)).square().sum().backward()
    for ours, theirs in zip(model.parameters(), reference.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-3, atol=1e-4)


def test_gradients_of_the_moments() -> None:
    x = images(3).double().requires_grad_()
    assert torch.autograd.gradcheck(_moments, (x,))
    assert torch.autograd.gradcheck(_moments, (x.flatten(1),))
    mean, variance = _moments(x)
    torch.testing.assert_close(mean, x.mean((0, 2, 3)))
    torch.testing.assert_close(variance, x.var((0, 2, 3), correction=0))


def test_other_images_go_through_the_statistics_of_the_clean_batch() -> None:
    clean, other = images(9), images(4, seed=1)
    network, _ = fold_batch(trace(small_model().train()), clean)
    # A model whose running statistics are exactly (momentum 1, biased variance) those of the clean batch.
    frozen = small_model()
    activations = clean
    for module in frozen:
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            dimensions = [d for d in range(activations.dim()) if d != 1]
            module.running_mean = activations.mean(dimensions).detach()
            module.running_var = activations.var(dimensions, correction=0).detach()
            module.eval()
        activations = module(activations)
    torch.testing.assert_close(network(other), frozen(other), rtol=1e-4, atol=1e-4)


def test_using_the_folded_network_leaves_the_running_statistics_alone() -> None:
    model = small_model().train()
    network, _ = fold_batch(trace(model), images(9))
    before = copy.deepcopy(model.state_dict())
    network(images(9, seed=1))
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_detached_networks_collect_no_gradient() -> None:
    network, _ = fold_batch(trace(small_model().train()), images(9))
    assert network(images(2)).requires_grad
    assert not network.detached()(images(2)).requires_grad
    assert not fold_running(trace(small_model()))(images(2)).requires_grad


def test_population_statistics_are_the_means_over_whole_batches() -> None:
    pixels = (images(20) * 255).to(torch.uint8)
    model, first, second = small_model(), small_model(), small_model()
    population(trace(model), Labelled(pixels, torch.zeros(20, dtype=torch.int64)), 8)
    fold_batch(trace(first), pixels[:8].float() / 255, momentum=1.0)
    fold_batch(trace(second), pixels[8:16].float() / 255, momentum=1.0)
    for name in ("2.running_mean", "2.running_var", "6.running_mean", "6.running_var"):
        mean = (first.state_dict()[name] + second.state_dict()[name]) / 2
        torch.testing.assert_close(model.state_dict()[name], mean)
