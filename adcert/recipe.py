"""Recipes: everything that decides what a training run computes, as data.

A recipe is a TOML file; `--set key=value` overrides single settings. Its `[teacher]` table holds only what differs from
the student: the teacher is itself a recipe, by default with the objective "pgd".
"""

from __future__ import annotations

import hashlib
import json
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields
from fractions import Fraction
from importlib import resources
from pathlib import Path
from typing import Any, get_type_hints

from adcert.data import AUGMENTATIONS, BENCHMARKS
from adcert.models import INITIALIZATIONS, MODELS
from adcert.objectives import OBJECTIVES
from adcert.problems import RecipeProblem
from adcert.statistics import STATISTICS
from verify.version import __version__


@dataclass(frozen=True)
class Radius:
    """An l_inf radius in the units of images in [0, 1], as it was written: "0.1" or "2/255"."""

    text: str

    @property
    def value(self) -> float:
        return float(Fraction(self.text))


@dataclass(frozen=True)
class Recipe:
    """One training run. Epochs count from 0; radii are in the units of images in [0, 1]."""

    dataset: str
    model: str
    objective: str
    eps: Radius  # what is to be certified
    epochs: int
    batch_size: int
    learning_rate: float  # of Adam
    ramp_end: int  # epoch from which on the radius is the full one
    train_eps_scale: float = 1.0  # trained at this multiple of eps
    alpha: float = 0.0  # weight of the upper bound within the objective: 1 is pure IBP where the objective has one
    robust_weight: float = 1.0  # w in (1 - w) CE(clean) + w objective
    attack_range_scale: float = 1.0  # attacked radius as a multiple of the trained one
    attack_steps: int = 1
    attack_restarts: int = 1
    lr_milestones: tuple[int, ...] = ()
    lr_decay: float = 0.2
    ramp_start: int = 0  # epoch up to which the radius is 0
    regularizer: float = 0.0  # weight of the warm-up regulariser, which fades as the radius grows
    l1: float = 0.0  # on the weights of convolutions and linear layers
    gradient_clip: float = 10.0  # largest 2-norm of a step's gradient
    init: str = "kaiming"
    augmentation: str = "none"
    statistics: str = "running"  # what batch norm uses in evaluation
    held_out: int = 1000  # last images of the training split, kept for the reported accuracies
    evaluation_steps: int = 10  # PGD steps behind the reported PGD accuracy
    seed: int = 0
    tf32: bool = False
    teacher: Recipe | None = field(default=None)

    @property
    def train_eps(self) -> float:
        """The radius at the end of the ramp."""
        return self.eps.value * self.train_eps_scale


# What a teacher does unless its table says otherwise. Settings that PGD training ignores are neutral, so that students
# that differ in nothing but these share one cached teacher.
TEACHER = {"objective": "pgd", "init": "kaiming", "alpha": 0.0, "robust_weight": 1.0, "regularizer": 0.0}

CHOICES: dict[str, Sequence[str]] = {
    "dataset": sorted(BENCHMARKS),
    "model": sorted(MODELS),
    "objective": sorted(OBJECTIVES),
    "init": sorted(INITIALIZATIONS),
    "augmentation": sorted(AUGMENTATIONS),
    "statistics": sorted(STATISTICS),
}

# The smallest and the largest value of each number.
RANGES: dict[str, tuple[float, float]] = {
    "epochs": (1, 1e6),
    "batch_size": (2, 1e6),
    "learning_rate": (0, 1e3),
    "ramp_end": (0, 1e6),
    "train_eps_scale": (0, 100),
    "alpha": (0, 1),
    "robust_weight": (0, 1),
    "attack_range_scale": (0, 100),
    "attack_steps": (1, 10_000),
    "attack_restarts": (1, 10_000),
    "lr_decay": (0, 1),
    "ramp_start": (0, 1e6),
    "regularizer": (0, 1e6),
    "l1": (0, 1e6),
    "gradient_clip": (1e-9, 1e9),
    "held_out": (1, 1e6),
    "evaluation_steps": (1, 10_000),
    "seed": (0, 2**63),
}

Table = dict[str, Any]


def load(name: str, overrides: Sequence[str] = ()) -> Recipe:
    """The recipe in TOML file `name`, or the one that ships under that name, with `key=value` overrides applied.

    Raises RecipeProblem if there is no such recipe, and for unknown settings, wrong types and values out of range.
    """
    table = _parse(_read(name), name)
    for override in overrides:
        _override(table, override)
    return _resolve(table)


def parse(text: str, name: str) -> Recipe:
    """The recipe that `text` (TOML, as `to_toml` writes it) says; `name` is for the error message."""
    return _resolve(_parse(text, name))


def names() -> list[str]:
    """The recipes that ship with the package."""
    folder = resources.files("adcert") / "recipes"
    return sorted(entry.name.removesuffix(".toml") for entry in folder.iterdir() if entry.name.endswith(".toml"))


def to_toml(recipe: Recipe) -> str:
    """Canonical text of the resolved recipe: every setting of the student, and what differs for its teacher."""
    lines = [f"{key} = {json.dumps(value)}" for key, value in _plain(recipe).items()]
    if recipe.teacher is not None:
        inherited = {**_plain(recipe), **TEACHER}
        lines += ["", "[teacher]"]
        lines += [f"{k} = {json.dumps(v)}" for k, v in _plain(recipe.teacher).items() if v != inherited[k]]
    return "\n".join(lines) + "\n"


def to_json(recipe: Recipe) -> str:
    """The resolved recipe and its teacher's as one line of JSON."""
    teacher = {} if recipe.teacher is None else {"teacher": _plain(recipe.teacher)}
    return json.dumps({**_plain(recipe), **teacher}, sort_keys=True)


def key(recipe: Recipe) -> str:
    """Names what training by this recipe and this version gives: 16 hexadecimal digits."""
    return hashlib.sha256(f"{__version__}\n{to_toml(recipe)}".encode()).hexdigest()[:16]


def _plain(recipe: Recipe) -> Table:
    """All settings but the teacher, as TOML and JSON know them."""
    values = {entry.name: getattr(recipe, entry.name) for entry in fields(recipe) if entry.name != "teacher"}
    return {name: _PLAIN.get(type(value), _same)(value) for name, value in values.items()}


def _same(value: Any) -> Any:
    return value


_PLAIN = {Radius: lambda radius: radius.text, tuple: list}


def _read(name: str) -> str:
    path = Path(name)
    try:
        if path.suffix == ".toml" or path.is_file():
            return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeProblem(f"cannot read the recipe {name}: {error}") from None
    if name not in names():
        raise RecipeProblem(f"there is no recipe {name!r}; there are {', '.join(names())}, and any TOML file")
    return (resources.files("adcert") / "recipes" / f"{name}.toml").read_text(encoding="utf-8")


def _parse(text: str, name: str) -> Table:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise RecipeProblem(f"the recipe {name} is not valid TOML: {error}") from None


def _override(table: Table, override: str) -> None:
    """Put one `key=value` into the table; a value that is not TOML (cnn-7, 2/255) is a string."""
    name, equals, text = override.partition("=")
    if not equals or not name.strip():
        raise RecipeProblem(f"--set {override!r} does not have the form key=value")
    try:
        parsed = tomllib.loads(f"value = {text}")
        value = parsed["value"] if len(parsed) == 1 else text
    except tomllib.TOMLDecodeError:
        value = text.strip()
    *parents, last = name.strip().split(".")
    for parent in parents:
        table = table.setdefault(parent, {})
        if not isinstance(table, dict):
            raise RecipeProblem(f"--set {override!r}: {parent} is a value and has no settings of its own")
    table[last] = value


def _resolve(table: Table) -> Recipe:
    table = dict(table)
    differences = table.pop("teacher", None)
    student = _convert_all(table, "")
    teacher = None
    if differences is not None:
        if not isinstance(differences, dict):
            raise RecipeProblem("teacher is a table of settings, written [teacher] or teacher.key=value")
        teacher = _build({**student, **TEACHER, **_convert_all(differences, "teacher.")}, None, "teacher.")
        if OBJECTIVES[teacher.objective].needs_teacher:
            raise RecipeProblem(f"teacher.objective = {teacher.objective!r} would itself need a teacher")
    recipe = _build(student, teacher, "")
    if OBJECTIVES[recipe.objective].needs_teacher and teacher is None:
        raise RecipeProblem(f"the objective {recipe.objective} needs a [teacher] table in its recipe")
    return recipe


def _build(values: Mapping[str, Any], teacher: Recipe | None, prefix: str) -> Recipe:
    required = {entry.name for entry in fields(Recipe) if entry.default is MISSING}
    missing = sorted(required - set(values))
    if missing:
        raise RecipeProblem(f"the recipe lacks {', '.join(prefix + name for name in missing)}")
    recipe = Recipe(**values, teacher=teacher)
    if recipe.ramp_start > recipe.ramp_end:
        raise RecipeProblem(f"{prefix}ramp_start = {recipe.ramp_start} lies after ramp_end = {recipe.ramp_end}")
    return recipe


def _convert_all(table: Table, prefix: str) -> Table:
    known = get_type_hints(Recipe)
    del known["teacher"]
    for name in table:
        if name not in known:
            possible = ", ".join(prefix + each for each in sorted(known))
            raise RecipeProblem(f"there is no setting {prefix}{name}; there are {possible}")
    return {name: _convert(name, value, known[name], prefix) for name, value in table.items()}


def _convert(name: str, value: Any, kind: type, prefix: str) -> Any:
    convert, description = _CONVERSIONS[kind]
    try:
        converted = convert(value)
    except (TypeError, ValueError, ZeroDivisionError):
        raise RecipeProblem(f"{prefix}{name} is {description}, not {value!r}") from None
    if name in CHOICES and converted not in CHOICES[name]:
        raise RecipeProblem(f"{prefix}{name} = {value!r} does not exist; there are {', '.join(CHOICES[name])}")
    if name in RANGES:
        low, high = RANGES[name]
        if not low <= converted <= high:
            raise RecipeProblem(f"{prefix}{name} = {value!r} is outside of {low:g} to {high:g}")
    return converted


def _exactly(kind: type, value: Any) -> Any:
    if type(value) is not kind:  # True is an int for isinstance
        raise TypeError
    return value


def _float(value: Any) -> float:
    if type(value) not in (int, float):
        raise TypeError
    return float(value)


def _radius(value: Any) -> Radius:
    if type(value) not in (int, float, str):
        raise TypeError
    radius = Radius(str(value).strip())
    if not 0 <= radius.value <= 1:
        raise ValueError
    return radius


def _epochs(value: Any) -> tuple[int, ...]:
    return tuple(_exactly(int, epoch) for epoch in _exactly(list, value))


_CONVERSIONS: dict[Any, tuple[Any, str]] = {
    str: (lambda value: _exactly(str, value), "a text"),
    int: (lambda value: _exactly(int, value), "a whole number"),
    float: (_float, "a number"),
    bool: (lambda value: _exactly(bool, value), "true or false"),
    tuple[int, ...]: (_epochs, "a list of epochs such as [50, 60]"),
    Radius: (_radius, "a number or fraction from 0 to 1 such as 0.1 or 2/255"),
}
