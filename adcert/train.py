"""The training loop: one network by one recipe, from the last checkpoint to finished weights."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from adcert import processes
from adcert.attack import Pgd
from adcert.benchmark import Benchmark
from adcert.data import (
    AUGMENTATIONS,
    Labelled,
    TrainingData,
    generator,
    load_training_data,
    shuffled_batches,
    unit_range,
)
from adcert.evaluate import Accuracies, accuracies
from adcert.folding import fold_batch, fold_running
from adcert.initialization import INITIALIZATIONS
from adcert.layers import Add, Layer, Linear, apply
from adcert.ledger import Ledger
from adcert.models import build
from adcert.objectives import OBJECTIVES, Passes, Terms
from adcert.optimization import OPTIMIZERS
from adcert.problems import NetworkProblem, RecipeProblem
from adcert.recipe import Recipe
from adcert.regularizer import warm_up_regularizer
from adcert.run import Run, Stateful
from adcert.schedule import LEARNING_RATES, radius_at
from adcert.statistics import STATISTICS, population
from adcert.teachers import Teacher
from adcert.tracing import Blueprint, trace


class Reporter(Protocol):
    """Hears how training goes on; what it does with it is its own affair."""

    def begin(self, phase: str, recipe: Recipe, *, epochs_done: int, steps_per_epoch: int) -> None: ...

    def step(self) -> None: ...

    def epoch(self, metrics: dict[str, Any]) -> None: ...

    def end(self) -> None: ...


@dataclass(frozen=True)
class Learner:
    """What one run trains: a model and its blueprint, the optimiser, and the average of weights, if one is kept."""

    model: nn.Module
    blueprint: Blueprint
    optimizer: torch.optim.Optimizer
    average: AveragedModel | None

    @property
    def state(self) -> dict[str, Stateful]:
        parts: dict[str, Stateful] = {"weights": self.model, "optimizer": self.optimizer}
        return parts if self.average is None else {**parts, "average": self.average}

    def finished(self, data: Labelled, batch_size: int) -> tuple[nn.Module, Blueprint]:
        """The average of weights under batch statistics of its own, if there is one; else the model as it is."""
        if self.average is None or not self.average.n_averaged:
            return self.model, self.blueprint
        averaged: nn.Module = self.average.module
        blueprint = trace(averaged)
        population(blueprint, data, batch_size)
        return averaged, blueprint


def build_model(recipe: Recipe, benchmark: Benchmark, teacher: Teacher | None = None) -> nn.Module:
    """The recipe's network, freshly initialised, on the CPU (whose random numbers are the same for every device).

    Raises NetworkProblem if it cannot be bounded, and RecipeProblem if there is no such network.
    """
    model = build(recipe.model, benchmark)
    weights = None if teacher is None else teacher.weights
    INITIALIZATIONS[recipe.init](model, generator("cpu", recipe.seed, "weights"), weights)
    return model


def placed(model: nn.Module, device: torch.device) -> nn.Module:
    """The model on `device`, its weights in the order of memory in which convolutions are fastest on CPUs and GPUs."""
    return model.to(device).to(memory_format=torch.channels_last)  # type: ignore[no-any-return, call-overload]


def learner(recipe: Recipe, benchmark: Benchmark, teacher: Teacher | None, device: torch.device) -> Learner:
    """Everything that the recipe trains, as it is before the first step."""
    model = build_model(recipe, benchmark, teacher)
    # Before the weights change their order in memory: `view`, which many a model flattens by, depends on it.
    require_agreement(model.to(device), benchmark, device)
    placed(model, device)
    optimizer = OPTIMIZERS[recipe.optimizer](model.parameters(), recipe)
    return Learner(model, trace(model), optimizer, AveragedModel(model) if recipe.swa_start else None)


def train(run: Run, teacher: Teacher | None, device: torch.device, reporter: Reporter, *, phase: str) -> None:
    """Train `run` from wherever it stands to its finished weights, keeping a checkpoint after each epoch.

    Raises Diverged if a loss is no longer finite, RunProblem if the folder is damaged or the teacher is one for other
    data, FileProblem if it cannot be written, RecipeProblem if the batches are larger than the data, and NetworkProblem
    if the network is unsuitable.
    """
    recipe = run.recipe
    data = load_training_data(recipe.dataset, recipe.held_out, device)
    steps = len(data.fit) // recipe.batch_size
    if steps == 0:
        raise RecipeProblem(f"batch_size = {recipe.batch_size} is more than the {len(data.fit)} images to train on")
    if teacher is not None:
        teacher.require(data.benchmark)
    teacher_sha256 = None if teacher is None else teacher.sha256
    run.describe(device, teacher_sha256)
    student = learner(recipe, data.benchmark, teacher, device)
    done = run.restore(student.state)
    reporter.begin(phase, recipe, epochs_done=done, steps_per_epoch=steps)
    try:
        for epoch in range(done, recipe.epochs):
            started = time.monotonic()
            losses = train_epoch(student, data, recipe=recipe, epoch=epoch, teacher=teacher, reporter=reporter)
            STATISTICS[recipe.statistics](student.blueprint, data.fit, recipe.batch_size)
            held_out = held_out_accuracies(student.blueprint, data, recipe, epoch)
            metrics = {
                "epoch": epoch + 1,
                "eps": radius(recipe, epoch + 1),
                "losses": losses,
                "clean_accuracy": held_out.clean,
                "pgd_accuracy": held_out.pgd,
                "ibp_accuracy": held_out.ibp,
                "time_s": round(time.monotonic() - started, 3),
            }
            run.record(metrics)
            run.save_checkpoint(epoch + 1, student.state)
            reporter.epoch(metrics)
        model, blueprint = student.finished(data.fit, recipe.batch_size)
        held_out = held_out_accuracies(blueprint, data, recipe, recipe.epochs - 1)
        run.finish(model, data.benchmark, held_out, teacher_sha256)
    finally:
        reporter.end()


def train_epoch(
    student: Learner,
    data: TrainingData,
    *,
    recipe: Recipe,
    epoch: int,
    teacher: Teacher | None,
    reporter: Reporter,
) -> dict[str, float]:
    """One epoch over `data.fit`; returns the mean of each term of the loss."""
    device = data.fit.labels.device
    steps = len(data.fit) // recipe.batch_size
    own = f"/{processes.rank()}" if processes.rank() else ""
    random = generator(device, recipe.seed, f"steps{own}", epoch)
    batches = shuffled_batches(data.fit, recipe.batch_size, generator("cpu", recipe.seed, "order", epoch))
    ledger = Ledger(epoch, steps, device)
    for step, (pixels, labels) in enumerate(batches):
        images = unit_range(AUGMENTATIONS[recipe.augmentation](pixels, random))
        epochs = epoch + step / steps
        scalars = train_step(student, images, labels, recipe=recipe, epochs=epochs, random=random, teacher=teacher)
        if student.average is not None and epoch >= recipe.swa_start and step % recipe.swa_every == 0:
            student.average.update_parameters(student.model)
        ledger.add(step, scalars)
        reporter.step()
    means = ledger.means()
    del means["gradient norm"]
    return means


def train_step(
    student: Learner,
    images: Tensor,
    labels: Tensor,
    *,
    recipe: Recipe,
    epochs: float,
    random: torch.Generator,
    teacher: Teacher | None,
) -> Terms:
    """One step on a batch, `epochs` (with fraction) into the run; returns the terms of the loss and "gradient norm"."""
    images = images.contiguous(memory_format=torch.channels_last)
    network, clean_logits = fold_batch(student.blueprint, images)
    current = radius(recipe, epochs)
    passes = Passes(
        network=network,
        images=images,
        labels=labels,
        clean_logits=clean_logits,
        radius=current,
        final_radius=recipe.train_eps,
        attack_radius=current * recipe.attack_range_scale,
        attack=Pgd(recipe.attack_steps, recipe.attack_restarts, _attack_precision(recipe, images.device)),
        random=random,
        teacher=None if teacher is None else teacher.network,
    )
    terms = loss_terms(passes, student.blueprint, recipe)
    for group in student.optimizer.param_groups:
        group["lr"] = LEARNING_RATES[recipe.lr_schedule](epochs, recipe)
    student.optimizer.zero_grad()
    values = torch.stack(list(terms.values()))
    torch.autograd.backward(values.sum())
    processes.average_gradients(student.model.parameters())
    norm = nn.utils.clip_grad_norm_(student.model.parameters(), recipe.gradient_clip)
    student.optimizer.step()
    return {**dict(zip(terms, processes.mean(values.detach()), strict=True)), "gradient norm": norm}


def _attack_precision(recipe: Recipe, device: torch.device) -> torch.dtype:
    """bfloat16 on GPUs, unless the recipe wants otherwise: where an attack ends changes nothing that is proved."""
    return torch.bfloat16 if recipe.bfloat16_attack and device.type == "cuda" else torch.float32


def loss_terms(passes: Passes, blueprint: Blueprint, recipe: Recipe) -> Terms:
    """(1 - w) CE(clean) + w objective + lambda (1 - eps / eps_max) regulariser + l1 sum |W|, without zero weights."""
    weight = recipe.robust_weight
    objective = OBJECTIVES[recipe.objective].terms(passes, recipe)
    terms = {name: weight * term for name, term in objective.items()}
    if weight < 1:
        terms["clean"] = (1 - weight) * F.cross_entropy(passes.clean_logits, passes.labels)
    remaining = 1 - passes.radius / recipe.train_eps if recipe.train_eps > 0 else 0.0
    if recipe.regularizer * remaining > 0:
        terms["regularizer"] = recipe.regularizer * remaining * warm_up_regularizer(passes.bounds)
    if recipe.l1 > 0:
        terms["l1"] = recipe.l1 * _sum_of_magnitudes(blueprint)
    return terms


def _sum_of_magnitudes(blueprint: Blueprint) -> Tensor:
    return torch.stack([torch.linalg.vector_norm(layer.weight, 1) for layer in blueprint.weighted_layers]).sum()


def radius(recipe: Recipe, epochs: float) -> float:
    """The radius that the recipe trains at after `epochs`."""
    return radius_at(epochs, final=recipe.train_eps, start=recipe.ramp_start, end=recipe.ramp_end)


def held_out_accuracies(blueprint: Blueprint, data: TrainingData, recipe: Recipe, epoch: int) -> Accuracies:
    """Accuracies at the recipe's eps on the held-out images, under the statistics used for evaluation."""
    random = generator(data.held_out.labels.device, recipe.seed, "evaluation", epoch)
    attack = Pgd(recipe.evaluation_steps)
    return accuracies(fold_running(blueprint), data.held_out, recipe.eps.value, attack, random)


@torch.no_grad()
def require_agreement(model: nn.Module, benchmark: Benchmark, device: torch.device) -> None:
    """Raise NetworkProblem unless the traced network computes what the model itself does, in eval mode."""
    images = torch.rand(2, *benchmark.shape, generator=generator("cpu", 0, "agreement")).to(device)
    training = model.training
    try:
        expected = model.eval()(images)
    except Exception as error:  # whatever the user's own code raises
        raise NetworkProblem(f"the model does not take images of shape {benchmark.shape}: {error}") from None
    finally:
        model.train(training)
    if expected.shape != (2, benchmark.classes):
        raise NetworkProblem(f"the model yields {tuple(expected.shape[1:])}, not {benchmark.classes} logits")
    difference = float((fold_running(trace(model)).result(images, _of_fitting_shapes) - expected).abs().max())
    if not difference <= 1e-3 * max(1.0, float(expected.abs().max())):
        raise NetworkProblem(
            f"the model's logits differ by {difference:.3g} from those of its layers: does it change values in place?"
        )


def _of_fitting_shapes(layer: Layer, *operands: Tensor) -> Tensor:
    """The layer's result, where its operands have the shapes that bounds are computed for."""
    if isinstance(layer, Linear) and operands[0].dim() != 2:
        raise NetworkProblem(f"a linear layer takes features, not a tensor of shape {tuple(operands[0].shape[1:])}")
    if isinstance(layer, Add) and operands[0].shape != operands[1].shape:
        shapes = " and ".join(str(tuple(operand.shape[1:])) for operand in operands)
        raise NetworkProblem(f"only tensors of one shape can be added, not {shapes}")
    return apply(layer, *operands)
