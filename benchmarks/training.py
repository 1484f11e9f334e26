"""What does a training step cost, against a straightforward implementation of the same step?

    python benchmarks/training.py [--device cuda] [--batch N] [--repeat N] [--threads N]

Steps of AD-CERT and MTL-IBP with the settings of the recipe cifar10-2 after its ramp, on CNN-7 and images of the shape
of CIFAR-10. The straightforward step is written with torch's own modules, one pass after the other. Its attack calls
`backward`, as published code does, and so also computes gradients of weights that nobody reads; the second ratio is to
the same step with an attack that only asks for those of the images. All are first shown to give the same loss and the
same gradients (in float64, where no sign of a gradient is left to rounding); then they run in turn in one process, and
the medians of the ratios of their times are printed.
"""

from __future__ import annotations

import argparse
import copy
import platform
import statistics
import time
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from adcert import recipe as recipes
from adcert import session, train
from adcert.attack import step_sizes
from adcert.benchmark import BENCHMARKS
from adcert.folding import fold_running
from adcert.models import Normalization, build
from adcert.recipe import Recipe
from adcert.teachers import Teacher
from adcert.tracing import trace

CIFAR = BENCHMARKS["cifar10"]
OBJECTIVES = ("ad-cert", "mtl-ibp")
TOLERANCE = 1e-9  # of the comparison in float64, relative to the largest gradient of each weight


class CleanBatchNorm(nn.Module):
    """Batch norm that every pass of a step runs with the statistics of the clean one."""

    def __init__(self, norm: nn.BatchNorm1d | nn.BatchNorm2d) -> None:
        super().__init__()
        self.norm = norm
        self.clean = False
        self.mean = self.variance = torch.zeros(0)

    def forward(self, x: Tensor) -> Tensor:
        if self.clean:
            dimensions = [0, *range(2, x.dim())]
            self.mean = x.mean(dimensions)
            self.variance = (x - self.shaped(self.mean, x)).square().mean(dimensions)
            with torch.no_grad():
                count = x.numel() // x.shape[1]
                assert self.norm.running_mean is not None
                assert self.norm.running_var is not None
                self.norm.running_mean.mul_(0.9).add_(0.1 * self.mean)
                self.norm.running_var.mul_(0.9).add_(0.1 * self.variance * count / (count - 1))
        scale, shift = self.scale_and_shift()
        return x * self.shaped(scale, x) + self.shaped(shift, x)

    def scale_and_shift(self) -> tuple[Tensor, Tensor]:
        scale = self.norm.weight / torch.sqrt(self.variance + self.norm.eps)
        return scale, self.norm.bias - self.mean * scale

    @staticmethod
    def shaped(values: Tensor, x: Tensor) -> Tensor:
        return values.reshape(1, -1, *[1] * (x.dim() - 2))


class Straightforward:
    """A model, its frozen teacher and its optimiser, trained step by step."""

    def __init__(self, model: nn.Module, teacher: nn.Module | None, recipe: Recipe, *, lean_attack: bool) -> None:
        layers = [
            CleanBatchNorm(layer) if isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d) else layer
            for layer in model.children()
        ]
        self.model, self.teacher, self.recipe = nn.Sequential(*layers), teacher, recipe
        self.lean_attack = lean_attack
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=recipe.learning_rate)

    def step(self, x: Tensor, y: Tensor, random: torch.Generator) -> Tensor:
        loss = self.loss(x, y, random)
        self.optimizer.zero_grad()
        torch.autograd.backward(loss)
        nn.utils.clip_grad_norm_(self.model.parameters(), self.recipe.gradient_clip)
        self.optimizer.step()
        return loss

    def loss(self, x: Tensor, y: Tensor, random: torch.Generator) -> Tensor:
        recipe = self.recipe
        clean = self.clean_pass(x)
        norms = [layer for layer in self.model if isinstance(layer, CleanBatchNorm)]
        moments = [(norm.mean, norm.variance) for norm in norms]
        for norm in norms:
            norm.mean, norm.variance = norm.mean.detach(), norm.variance.detach()
        points = self.pgd(x, y, random)  # through constant statistics
        for norm, (mean, variance) in zip(norms, moments, strict=True):
            norm.mean, norm.variance = mean, variance
        self.optimizer.zero_grad()
        attacked = self.model(points)
        if self.teacher is None:
            under = F.cross_entropy(attacked, y)
        else:
            with torch.no_grad():
                target = F.log_softmax(self.teacher(x), dim=1)
            under = F.kl_div(F.log_softmax(attacked, dim=1), target, log_target=True, reduction="batchmean")
        robust = recipe.alpha * F.cross_entropy(-self.margins(x, y), y) + (1 - recipe.alpha) * under
        l1 = sum(
            (layer.weight.abs().sum() for layer in self.model if isinstance(layer, nn.Conv2d | nn.Linear)),
            torch.zeros((), device=x.device),
        )
        weight = recipe.robust_weight
        return (1 - weight) * F.cross_entropy(clean, y) + weight * robust + recipe.l1 * l1

    def clean_pass(self, x: Tensor) -> Tensor:
        norms = [layer for layer in self.model if isinstance(layer, CleanBatchNorm)]
        for norm in norms:
            norm.clean = True
        logits: Tensor = self.model(x)
        for norm in norms:
            norm.clean = False
        return logits

    def pgd(self, x: Tensor, y: Tensor, random: torch.Generator) -> Tensor:
        radius = self.recipe.train_eps * self.recipe.attack_range_scale
        lower, upper = (x - radius).clamp(min=0), (x + radius).clamp(max=1)
        best, best_loss = x, torch.full_like(y, -torch.inf, dtype=x.dtype)
        for _ in range(self.recipe.attack_restarts):
            noise = torch.rand(x.shape, generator=random, device=x.device)
            points = torch.clamp(lower + noise * (upper - lower), lower, upper)
            for size in [*step_sizes(self.recipe.attack_steps), None]:
                points.requires_grad_(size is not None)
                losses = F.cross_entropy(self.model(points), y, reduction="none")
                better = losses.detach() > best_loss
                best = torch.where(better.reshape(-1, 1, 1, 1), points.detach(), best)
                best_loss = torch.where(better, losses.detach(), best_loss)
                if size is not None:
                    if self.lean_attack:
                        (points.grad,) = torch.autograd.grad(losses.sum(), points)
                    else:
                        torch.autograd.backward(losses.sum())
                    assert points.grad is not None
                    moved = points.detach() + size * (upper - lower) / 2 * points.grad.sign()
                    points = torch.clamp(moved, lower, upper)
        return best

    def margins(self, x: Tensor, y: Tensor) -> Tensor:
        """Interval lower bounds of z_y - z_j, the last layer taken together with the margins."""
        radius = self.recipe.train_eps
        lower, upper = (x - radius).clamp(min=0), (x + radius).clamp(max=1)
        for layer in list(self.model)[:-1]:
            centre, width = (upper + lower) / 2, (upper - lower) / 2
            if isinstance(layer, nn.Conv2d):
                centre, width = layer(centre), F.conv2d(width, layer.weight.abs(), None, layer.stride, layer.padding)
            elif isinstance(layer, nn.Linear):
                centre, width = layer(centre), F.linear(width, layer.weight.abs())
            elif isinstance(layer, CleanBatchNorm):
                centre, width = layer(centre), width * layer.shaped(layer.scale_and_shift()[0].abs(), width)
            elif isinstance(layer, Normalization):
                centre, width = layer(centre), width / layer.std
            else:  # ReLU and flattening are monotone
                lower, upper = layer(lower), layer(upper)
                continue
            lower, upper = centre - width, centre + width
        last = self.model[-1]
        assert isinstance(last, nn.Linear)
        rows = last.weight[y].unsqueeze(1) - last.weight
        offsets = last.bias[y].unsqueeze(1) - last.bias
        centre, width = (upper + lower) / 2, (upper - lower) / 2
        return torch.einsum("njf,nf->nj", rows, centre) + offsets - torch.einsum("njf,nf->nj", rows.abs(), width)


class Pair:
    """The same student in the implementations, and a batch."""

    def __init__(self, objective: str, batch: int, device: torch.device, dtype: torch.dtype) -> None:
        # In float64 nothing runs in reduced precision.
        exact = ["bfloat16_attack=false"] if dtype == torch.float64 else []
        self.recipe = recipes.load("cifar10-2", [f"objective={objective}", *exact])
        draw = torch.Generator().manual_seed(0)
        self.x = torch.rand(batch, *CIFAR.shape, generator=draw).to(device, dtype)
        self.y = torch.randint(CIFAR.classes, (batch,), generator=draw).to(device)
        teacher_model, self.teacher = None, None
        if self.recipe.teacher is not None and objective == "ad-cert":
            teacher_model = build(self.recipe.model, CIFAR).eval().to(device, dtype)
            frozen = train.placed(copy.deepcopy(teacher_model), device)
            self.teacher = Teacher(fold_running(trace(frozen)), CIFAR.shape, CIFAR.classes, "")
        self.learner = train.learner(self.recipe, CIFAR, None, device)
        self.learner.model.to(dtype)
        plain = copy.deepcopy(self.learner.model).to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
        self.plain = Straightforward(plain, teacher_model, self.recipe, lean_attack=False)
        self.lean = Straightforward(copy.deepcopy(plain), teacher_model, self.recipe, lean_attack=True)
        self.random = torch.Generator(device)

    def straightforward(self) -> Tensor:
        return self.plain.step(self.x, self.y, self.random.manual_seed(1))

    def straightforward_lean(self) -> Tensor:
        return self.lean.step(self.x, self.y, self.random.manual_seed(1))

    def ours(self) -> Tensor:
        terms = train.train_step(
            self.learner,
            self.x,
            self.y,
            recipe=self.recipe,
            epochs=self.recipe.ramp_end,
            random=self.random.manual_seed(1),
            teacher=self.teacher,
        )
        return torch.stack([value for name, value in terms.items() if name != "gradient norm"]).sum()

    def require_agreement(self) -> None:
        """Fail unless one step of each gives the same loss, gradients and running statistics."""
        loss = self.ours()
        for other, expected in ((self.plain, self.straightforward()), (self.lean, self.straightforward_lean())):
            torch.testing.assert_close(loss, expected, rtol=TOLERANCE, atol=0)
            theirs = {name.replace(".norm.", "."): weight for name, weight in other.model.named_parameters()}
            for name, weight in self.learner.model.named_parameters():
                gradient, same = weight.grad, theirs[name].grad
                assert gradient is not None
                assert same is not None
                difference = float((gradient - same).abs().max())
                assert difference <= TOLERANCE * float(same.abs().max()), (name, difference)
            buffers = {name.replace(".norm.", "."): value for name, value in other.model.named_buffers()}
            for name, value in self.learner.model.named_buffers():
                if "running" in name:
                    torch.testing.assert_close(value, buffers[name], rtol=TOLERANCE, atol=TOLERANCE)


def interleaved(functions: Sequence[Callable[[], object]], repeat: int, device: torch.device) -> list[list[float]]:
    """Times in seconds of functions that run in turn; the first two rounds only warm up."""
    times: list[list[float]] = [[] for _ in functions]
    for round_ in range(repeat + 2):
        for function, found in zip(functions, times, strict=True):
            _wait(device)
            began = time.perf_counter()
            function()
            _wait(device)
            if round_ >= 2:
                found.append(time.perf_counter() - began)
    return times


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto")
    parser.add_argument("--batch", type=int, help="default: 32 on a CPU, 128 on a GPU")
    parser.add_argument("--repeat", type=int, default=9)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args()
    device = session.select_device(options.device)
    torch.set_num_threads(options.threads)
    batch = options.batch or (128 if device.type == "cuda" else 32)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or platform.machine()
    print(f"{name}, {options.threads} threads, torch {torch.__version__}, CNN-7, CIFAR-10 shapes, batch {batch}")
    print(f"{'objective':10} {'straightforward ms':>19} {'adcert ms':>10} {'ratio':>6} {'to lean attack':>15}")
    for objective in OBJECTIVES:
        Pair(objective, 4, device, torch.float64).require_agreement()
        pair = Pair(objective, batch, device, torch.float32)
        functions = [pair.straightforward, pair.straightforward_lean, pair.ours]
        plain, lean, ours = interleaved(functions, options.repeat, device)
        to_plain, to_lean = (
            statistics.median(mine / its for mine, its in zip(ours, theirs, strict=True)) for theirs in (plain, lean)
        )
        times = f"{1e3 * statistics.median(plain):19.0f} {1e3 * statistics.median(ours):10.0f}"
        print(f"{objective:10} {times} {to_plain:6.2f} {to_lean:15.2f}", flush=True)


if __name__ == "__main__":
    main()
