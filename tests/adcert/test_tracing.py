"""Any module of supported layers becomes steps that compute what it computes; of any other the culprit is named."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from adcert import export, run, session
from adcert import recipe as recipes
from adcert.benchmark import BENCHMARKS, Benchmark
from adcert.evaluate import Accuracies
from adcert.folding import fold_batch, fold_running
from adcert.intervals import box_around, propagate
from adcert.layers import Network, apply
from adcert.linear_bounds import lower_bounds
from adcert.models import MODELS
from adcert.problems import NetworkProblem, RecipeProblem
from adcert.tracing import trace
from adcert.train import learner
from support import user_models
from support.user_models import branched, everything, preactivated
from verify.bounds.evaluation import bounds as rigorous_bounds
from verify.boxes import box_around as rigorous_box
from verify.boxes import parse_eps
from verify.core.rounding import FLOAT32_ANY_ORDER
from verify.model.network import load

BENCHMARK = Benchmark((1, 16, 16), 5, (0.4,), (0.3,))
MAKE: dict[str, Callable[[Benchmark], nn.Module]] = {
    "everything": everything,
    "preactivated": preactivated,
    "branched": branched,
    **{name: MODELS[name] for name in ("cnn-3", "mlp-2x256", "resnet-8")},
}
models = pytest.mark.parametrize("name", MAKE)


def model(name: str) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return MAKE[name](BENCHMARK)


def images(count: int, seed: int = 0) -> Tensor:
    return torch.rand(count, *BENCHMARK.shape, generator=torch.Generator().manual_seed(seed))


def in_float64(name: str) -> Network:
    return fold_running(trace(model(name).double()))


@models
def test_in_eval_mode_the_steps_are_the_model(name: str) -> None:
    network, reference = fold_running(trace(model(name))), model(name).eval()
    torch.testing.assert_close(network(images(7)), reference(images(7)), rtol=1e-4, atol=1e-4)


@models
def test_in_train_mode_logits_statistics_and_gradients_are_those_of_the_model(name: str) -> None:
    ours, reference = model(name).double().train(), model(name).double().train()
    x = images(9).double()
    network, logits = fold_batch(trace(ours), x)
    expected = reference(x)
    torch.testing.assert_close(logits, expected)
    torch.testing.assert_close(network(x), expected)
    for key, value in reference.state_dict().items():
        if "running" in key:
            torch.testing.assert_close(ours.state_dict()[key], value)
    network(x).square().sum().backward()
    expected.square().sum().backward()
    for mine, theirs in zip(ours.parameters(), reference.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, theirs.grad)


@models
def test_bounds_contain_every_value_of_every_layer(name: str) -> None:
    network, x = in_float64(name), images(4).double()
    box = box_around(x, 0.05)
    bounds = propagate(network, box)
    rows = torch.randn(4, 6, bounds.features.centre.shape[1], generator=torch.Generator().manual_seed(0)).double()
    offsets = torch.ones(4, 6).double()
    linear = lower_bounds(network, bounds, rows, offsets)
    random = torch.Generator().manual_seed(1)
    for trial in range(60):
        share = torch.rand(x.shape, generator=random, dtype=torch.float64)
        share = share.round() if trial % 2 else share
        point = box.lower + share * (box.upper - box.lower)
        values = [point, *(value.clone() for value in network.body.results(point, apply))]
        for value, interval in zip(values, bounds.values, strict=True):
            assert bool((value >= interval.lower - 1e-9).all() and (value <= interval.upper + 1e-9).all())
        combined = torch.einsum("nrf,nf->nr", rows, values[-1]) + offsets
        assert bool((combined >= linear - 1e-9).all())


@models
def test_a_box_without_width_is_a_point(name: str) -> None:
    network, x = in_float64(name), images(3).double()
    bounds = propagate(network, box_around(x, 0.0))
    features = network.body(x)
    torch.testing.assert_close(bounds.features.lower, features)
    rows = torch.eye(features.shape[1]).double().expand(3, -1, -1)
    linear = lower_bounds(network, bounds, rows, torch.zeros(3, features.shape[1]).double())
    torch.testing.assert_close(linear, features)


@pytest.mark.parametrize("function", ["everything", "preactivated", "branched"])
def test_a_user_s_model_is_exported_and_bounded_rigorously(function: str, tmp_path: Path, recipe_file: Path) -> None:
    recipe = recipes.load(str(recipe_file), ["objective=ibp", f"model={user_models.__file__}:{function}"])
    started = session.start(tmp_path / "run", recipe, None)
    benchmark = BENCHMARKS["mnist"]
    started.finish(getattr(user_models, function)(benchmark), benchmark, Accuracies(1, 1, 1), None)
    path = tmp_path / "model.onnx"
    assert export.export(run.load_trained(started.folder), path).equal_argmax == 200
    network = load(path)
    x = np.random.default_rng(0).random((2, 1, 28, 28), np.float32)
    box = rigorous_box(x.reshape(2, *network.input.shape), parse_eps("1/100"), (0.0, 1.0))
    (interval,) = rigorous_bounds(network, box, FLOAT32_ANY_ORDER)
    logits = getattr(user_models, function)(benchmark).eval()(torch.from_numpy(x)).detach().numpy()
    assert (interval.lower < logits.reshape(interval.lower.shape)).all()
    assert (interval.upper > logits.reshape(interval.upper.shape)).all()


def test_a_copy_of_a_model_has_a_blueprint_of_its_own() -> None:
    original = model("resnet-8")
    duplicate = copy.deepcopy(original)
    with torch.no_grad():
        for parameter in duplicate.parameters():
            parameter.zero_()
    assert bool((fold_running(trace(original))(images(2)) != 0).any())
    assert bool((fold_running(trace(duplicate))(images(2)) == 0).all())


class Wrapped(nn.Module):
    """A function between two layers."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.entry = nn.Conv2d(1, 4, 3)
        self.function = function
        self.head = nn.Linear(784, 5)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(torch.flatten(self.function(self.entry(images)), 1))


class TwoInputs(nn.Module):
    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        return first + second


class Dotted(nn.Module):
    def forward(self, images: Tensor) -> Tensor:
        return images.flatten(1) if images.sum() > 0 else images


@pytest.mark.parametrize(
    ("refused", "sentence"),
    [
        (nn.Sequential(nn.Flatten(), nn.GELU(), nn.Linear(256, 5)), "cannot bound module '1' (GELU); bounded are"),
        (nn.Sequential(nn.Dropout(), nn.Flatten(), nn.Linear(256, 5)), "cannot bound module '0' (Dropout)"),
        (nn.Sequential(nn.Linear(16, 5), nn.ReLU()), "must end in a linear layer"),
        (nn.Sequential(nn.Flatten(), nn.Linear(256, 5), nn.BatchNorm1d(5)), "must end in a linear layer"),
        (Wrapped(F.gelu), "cannot bound gelu()"),
        (Wrapped(lambda x: x.softmax(1)), "cannot bound softmax()"),
        (Wrapped(lambda x: x + 1), "of something that is not computed from the images"),
        (Wrapped(lambda x: torch.cat([x, x])), "cannot bound cat(): only channels (dim=1)"),
        (Wrapped(lambda x: x.view(4, -1)), "cannot bound view(): only the form view(x.size(0), -1)"),
        (Wrapped(lambda x: F.max_pool2d(x, 2, ceil_mode=True)), "ceil_mode and dilation are not supported"),
        (Wrapped(lambda x: F.adaptive_avg_pool2d(x, 2)), "only an output of one pixel"),
        (nn.Sequential(nn.Conv2d(1, 2, 3, padding="same"), nn.Linear(2, 2)), "padding must be given in pixels"),
        (nn.Sequential(nn.Conv2d(1, 2, 3, padding_mode="circular"), nn.Linear(2, 2)), "only zero padding"),
        (nn.Sequential(nn.BatchNorm2d(1, track_running_stats=False), nn.Linear(2, 2)), "no running statistics"),
        (nn.Sequential(nn.BatchNorm2d(1, affine=False), nn.Linear(2, 2)), "needs affine parameters"),
        (
            nn.Sequential(nn.Flatten(), nn.utils.spectral_norm(nn.Linear(256, 5))),
            "its weight is not one that is trained",
        ),
        (
            nn.Sequential(nn.Conv2d(1, 2, 3).requires_grad_(False), nn.Linear(2, 2)),
            "cannot bound module '0' (Conv2d): its",
        ),
        (Wrapped(lambda x: torch.add(x, x, alpha=2)), "cannot bound add() with these arguments"),
        (TwoInputs(), "cannot bound second()"),
        (Dotted(), "Dotted cannot be traced by torch.fx"),
    ],
)
def test_what_cannot_be_bounded_is_named(refused: nn.Module, sentence: str) -> None:
    with pytest.raises(NetworkProblem) as caught:
        trace(refused)
    assert sentence in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("function", "sentence"),
    [
        ("missing", "cannot make the model"),
        ("no_module", "is a str, not an nn.Module"),
        ("too_few_logits", r"yields \(3,\), not 10 logits"),
        ("in_place", "does it change values in place"),
        ("broadcast", r"only tensors of one shape can be added, not \(1, 28, 28\) and \(1, 1, 1\)"),
        ("two_results", r"does not take images of shape \(1, 28, 28\): 'tuple' object"),
        ("along_rows", r"a linear layer takes features, not a tensor of shape \(1, 28, 28\)"),
    ],
)
def test_models_that_do_not_fit_are_refused_before_training(function: str, sentence: str, recipe_file: Path) -> None:
    recipe = recipes.load(str(recipe_file), [f"model={user_models.__file__}:{function}"])
    with pytest.raises((NetworkProblem, RecipeProblem), match=sentence):
        learner(recipe, BENCHMARKS["mnist"], None, torch.device("cpu"))


def test_a_model_that_flattens_by_view_is_trained_as_it_is(recipe_file: Path) -> None:
    recipe = recipes.load(str(recipe_file), [f"model={user_models.__file__}:viewed"])
    x = torch.rand(2, 1, 28, 28)
    student = learner(recipe, BENCHMARKS["mnist"], None, torch.device("cpu"))
    contiguous = copy.deepcopy(student.model).to(memory_format=torch.contiguous_format)
    torch.testing.assert_close(fold_running(student.blueprint)(x), contiguous(x))


@pytest.mark.parametrize("layers", [1, 2, 3])
def test_a_network_is_cut_before_its_last_layers(layers: int) -> None:
    network = in_float64("mlp-2x256")
    if layers == 3:
        with pytest.raises(NetworkProblem, match="cannot attack 3 of the 3 weighted layers"):
            network.split(layers)
        return
    head, tail = network.split(layers)
    torch.testing.assert_close(tail(head(images(3).double())), network(images(3).double()))


def test_a_branch_around_the_cut_is_refused() -> None:
    with pytest.raises(NetworkProblem, match="a branch of the model bypasses"):
        in_float64("resnet-8").split(2)
