"""The training loop: one network by one recipe, from the last checkpoint to finished weights."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from adcert.attack import Pgd
from adcert.data import (
    AUGMENTATIONS,
    BENCHMARKS,
    TrainingData,
    generator,
    load_training_data,
    shuffled_batches,
    unit_range,
)
from adcert.evaluate import Accuracies, accuracies
from adcert.folding import Network, fold_batch, fold_running
from adcert.ledger import Ledger
from adcert.models import INITIALIZATIONS, MODELS, weighted_layers
from adcert.objectives import OBJECTIVES, Passes, Terms
from adcert.problems import RecipeProblem
from adcert.recipe import Recipe
from adcert.regularizer import warm_up_regularizer
from adcert.run import Run
from adcert.schedule import learning_rate_at, radius_at
from adcert.statistics import STATISTICS


class Reporter(Protocol):
    """Hears how training goes on; what it does with it is its own affair."""

    def begin(self, phase: str, recipe: Recipe, *, epochs_done: int, steps_per_epoch: int) -> None: ...

    def step(self) -> None: ...

    def epoch(self, metrics: dict[str, Any]) -> None: ...

    def end(self) -> None: ...


@dataclass(frozen=True)
class Teacher:
    """A frozen network, and the SHA-256 of the file that its weights come from."""

    network: Network
    sha256: str


def build_model(recipe: Recipe) -> nn.Sequential:
    """The recipe's network, freshly initialised, on the CPU (whose random numbers are the same for every device)."""
    model = MODELS[recipe.model](BENCHMARKS[recipe.dataset])
    INITIALIZATIONS[recipe.init](model, generator("cpu", recipe.seed, "weights"))
    return model


def train(run: Run, teacher: Teacher | None, device: torch.device, reporter: Reporter, *, phase: str) -> None:
    """Train `run` from wherever it stands to its finished weights, keeping a checkpoint after each epoch.

    Raises Diverged if a loss is no longer finite, RunProblem if the folder is damaged, FileProblem if it cannot
    be written, and RecipeProblem if the batches are larger than the data.
    """
    recipe = run.recipe
    data = load_training_data(recipe.dataset, recipe.held_out, device)
    steps = len(data.fit) // recipe.batch_size
    if steps == 0:
        raise RecipeProblem(f"batch_size = {recipe.batch_size} is more than the {len(data.fit)} images to train on")
    teacher_sha256 = None if teacher is None else teacher.sha256
    run.describe(device, teacher_sha256)
    model = build_model(recipe).to(device)
    optimizer = torch.optim.Adam(model.parameters(), lr=recipe.learning_rate)
    done = run.restore(model, optimizer)
    reporter.begin(phase, recipe, epochs_done=done, steps_per_epoch=steps)
    try:
        for epoch in range(done, recipe.epochs):
            started = time.monotonic()
            losses = train_epoch(model, optimizer, data, recipe=recipe, epoch=epoch, teacher=teacher, reporter=reporter)
            STATISTICS[recipe.statistics](model, data.fit, recipe.batch_size)
            held_out = held_out_accuracies(model, data, recipe, epoch)
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
            run.save_checkpoint(epoch + 1, model, optimizer)
            reporter.epoch(metrics)
        run.finish(model, held_out_accuracies(model, data, recipe, recipe.epochs - 1), teacher_sha256)
    finally:
        reporter.end()


def train_epoch(
    model: nn.Sequential,
    optimizer: torch.optim.Optimizer,
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
    random = generator(device, recipe.seed, "steps", epoch)
    batches = shuffled_batches(data.fit, recipe.batch_size, generator("cpu", recipe.seed, "order", epoch))
    ledger = Ledger(epoch, steps, device)
    for group in optimizer.param_groups:
        group["lr"] = learning_rate_at(
            epoch, initial=recipe.learning_rate, milestones=recipe.lr_milestones, decay=recipe.lr_decay
        )
    for step, (pixels, labels) in enumerate(batches):
        images = unit_range(AUGMENTATIONS[recipe.augmentation](pixels, random))
        network, clean_logits = fold_batch(model, images)
        current = radius(recipe, epoch + step / steps)
        passes = Passes(
            network=network,
            images=images,
            labels=labels,
            clean_logits=clean_logits,
            radius=current,
            attack_radius=current * recipe.attack_range_scale,
            attack=Pgd(recipe.attack_steps, recipe.attack_restarts),
            random=random,
            teacher=None if teacher is None else teacher.network,
        )
        terms = loss_terms(passes, model, recipe)
        optimizer.zero_grad()
        torch.autograd.backward(torch.stack(list(terms.values())).sum())
        norm = nn.utils.clip_grad_norm_(model.parameters(), recipe.gradient_clip)
        optimizer.step()
        ledger.add(step, {**terms, "gradient norm": norm})
        reporter.step()
    means = ledger.means()
    del means["gradient norm"]
    return means


def loss_terms(passes: Passes, model: nn.Sequential, recipe: Recipe) -> Terms:
    """(1 - w) CE(clean) + w objective + lambda (1 - eps / eps_max) regulariser + l1 sum |W|, without zero weights."""
    weight = recipe.robust_weight
    objective = OBJECTIVES[recipe.objective].terms(passes, recipe.alpha)
    terms = {name: weight * term for name, term in objective.items()}
    if weight < 1:
        terms["clean"] = (1 - weight) * F.cross_entropy(passes.clean_logits, passes.labels)
    remaining = 1 - passes.radius / recipe.train_eps if recipe.train_eps > 0 else 0.0
    if recipe.regularizer * remaining > 0:
        terms["regularizer"] = recipe.regularizer * remaining * warm_up_regularizer(passes.bounds)
    if recipe.l1 > 0:
        terms["l1"] = recipe.l1 * _sum_of_magnitudes(model)
    return terms


def _sum_of_magnitudes(model: nn.Sequential) -> Tensor:
    return torch.stack([layer.weight.abs().sum() for layer in weighted_layers(model)]).sum()


def radius(recipe: Recipe, epochs: float) -> float:
    """The radius that the recipe trains at after `epochs`."""
    return radius_at(epochs, final=recipe.train_eps, start=recipe.ramp_start, end=recipe.ramp_end)


def held_out_accuracies(model: nn.Sequential, data: TrainingData, recipe: Recipe, epoch: int) -> Accuracies:
    """Accuracies at the recipe's eps on the held-out images, under the statistics used for evaluation."""
    random = generator(data.held_out.labels.device, recipe.seed, "evaluation", epoch)
    attack = Pgd(recipe.evaluation_steps)
    return accuracies(fold_running(model), data.held_out, recipe.eps.value, attack, random)
