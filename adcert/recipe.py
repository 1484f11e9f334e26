"""Recipes: everything that decides what a training run computes, as data.

A recipe is a TOML file. `base = "NAME"` starts from another one, whose settings and tables it then changes. A table
`[objectives.NAME]` holds what applies only with that objective, such as its published settings on this data set; a
variant of an objective takes that one's table too, and then its own. `--set key=value` has the last word.

The `[teacher]` table holds only what differs from the student's common settings: the teacher is itself a recipe, by
default with the objective "pgd" and the table of that.
"""

from __future__ import annotations

import hashlib
import json
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields
from fractions import Fraction
from pathlib import Path
from typing import Any, get_type_hints

from adcert import models, sources
from adcert.benchmark import BENCHMARKS
from adcert.data import AUGMENTATIONS
from adcert.files import names_in, read_named
from adcert.initialization import INITIALIZATIONS
from adcert.objectives import OBJECTIVES, Settings
from adcert.optimization import OPTIMIZERS
from adcert.problems import RecipeProblem
from adcert.schedule import LEARNING_RATES
from adcert.statistics import STATISTICS
from verify.version import __version__


@dataclass(frozen=True)
class Radius:
    """An l_inf radius in the units of images in [0, 1], as it was written: "0.1" or "2/255"."""

    text: str

    @property
    def value(self) -> float:
        return float(Fraction(self.text))


@dataclass(frozen=True, kw_only=True)
class Recipe(Settings):
    """One training run. Epochs count from 0; radii are in the units of images in [0, 1]."""

    dataset: str  # a standard data set, FILE.npz or FOLDER/: see adcert.sources
    model: str  # a name, or FILE.py:FUNCTION: see adcert.models
    objective: str
    eps: Radius  # what is to be certified
    epochs: int
    batch_size: int
    learning_rate: float  # the largest one
    ramp_end: int  # epoch from which on the radius is the full one
    train_eps_scale: float = 1.0  # trained at this multiple of eps
    robust_weight: float = 1.0  # w in (1 - w) CE(clean) + w objective
    attack_range_scale: float = 1.0  # attacked radius as a multiple of the trained one
    attack_steps: int = 1
    attack_restarts: int = 1
    optimizer: str = "adam"
    weight_decay: float = 0.0
    momentum: float = 0.9  # of SGD
    lr_schedule: str = "steps"
    lr_milestones: tuple[int, ...] = ()
    lr_decay: float = 0.2
    lr_min: float = 0.0  # where the cyclic schedule begins and ends
    swa_start: int = 0  # epoch from which on weights are averaged, the average being the result; 0: never
    swa_every: int = 10  # steps between the weights that are averaged
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
    bfloat16_attack: bool = True  # training attacks in bfloat16 on a GPU; nothing else does
    teacher: Recipe | None = field(default=None)

    @property
    def train_eps(self) -> float:
        """The radius at the end of the ramp."""
        return self.eps.value * self.train_eps_scale


# What a teacher does unless its table says otherwise. Settings that PGD training ignores are neutral, so that students
# that differ in nothing but these share one cached teacher.
TEACHER: dict[str, Any] = {
    "objective": "pgd",
    "init": "kaiming",
    "robust_weight": 1.0,
    "regularizer": 0.0,
    "swa_start": 0,
    **{entry.name: entry.default for entry in fields(Settings)},
}

CHOICES: dict[str, Sequence[str]] = {
    "objective": sorted(OBJECTIVES),
    "init": sorted(INITIALIZATIONS),
    "augmentation": sorted(AUGMENTATIONS),
    "statistics": sorted(STATISTICS),
    "optimizer": sorted(OPTIMIZERS),
    "lr_schedule": sorted(LEARNING_RATES),
}

# Settings that may be a name or lead to a file: what decides, and what there is.
REFERENCES: dict[str, tuple[Callable[[str], bool], str]] = {
    "dataset": (sources.is_source, ", ".join([*sorted(BENCHMARKS), "FILE.npz", "FOLDER/ of images"])),
    "model": (models.is_model, ", ".join([*sorted(models.MODELS), "FILE.py:FUNCTION"])),
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
    "lr_min": (0, 1e3),
    "momentum": (0, 1),
    "weight_decay": (0, 1e3),
    "swa_start": (0, 1e6),
    "swa_every": (1, 1e6),
    "small_box": (1e-6, 1),
    "relu_shrink": (0, 1),
    "attacked_layers": (1, 1000),
    "gradient_scale": (0, 1e6),
    "crown_weight": (0, 1),
    "feature_weight": (0, 1e6),
    "trades_weight": (0, 1e6),
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
    changes: Table = {}
    for override in overrides:
        _override(changes, override)
    return load_changed(name, changes)


def load_changed(name: str, changes: Table) -> Recipe:
    """The same with overrides as a table, which may hold one for the teacher."""
    return _resolve(_read_with_bases(name), changes)


def parse(text: str, name: str) -> Recipe:
    """The recipe that `text` (TOML, as `to_toml` writes it) says; `name` is for the error message."""
    return _resolve(_parse(text, name), {})


def names() -> list[str]:
    """The recipes that ship with the package."""
    return names_in("recipes")


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
    """Names what training by this recipe and this version gives: 16 hexadecimal digits.

    The contents of the user's own data and of a model's file count, not only their names.
    """
    return hashlib.sha256(f"{__version__}\n{to_toml(recipe)}{contents(recipe)}".encode()).hexdigest()[:16]


def contents(recipe: Recipe) -> str:
    """What tells apart the user's own data, and models in files, that have the same names: SHA-256, empty if neither.

    Raises DataProblem or RecipeProblem where they cannot be read.
    """
    return sources.fingerprint(recipe.dataset) + models.fingerprint(recipe.model)


def _plain(recipe: Recipe) -> Table:
    """All settings but the teacher, as TOML and JSON know them."""
    of_objectives = {entry.name for entry in fields(Settings)}
    entries = sorted(fields(recipe), key=lambda entry: entry.name in of_objectives)  # the run comes first
    values = {entry.name: getattr(recipe, entry.name) for entry in entries if entry.name != "teacher"}
    return {name: _PLAIN.get(type(value), _same)(value) for name, value in values.items()}


def _same(value: Any) -> Any:
    return value


_PLAIN = {Radius: lambda radius: radius.text, tuple: list}


def _read_with_bases(name: str, derived: tuple[str, ...] = ()) -> Table:
    """The tables of a recipe over those of its base, over those of that one's base, and so on."""
    if name in derived:
        raise RecipeProblem(f"the recipe {name} is its own base")
    table = _parse(read_named("recipes", name, "recipe", RecipeProblem), name)
    base = table.pop("base", None)
    if base is None:
        return table
    if not isinstance(base, str):
        raise RecipeProblem(f"the base of the recipe {name} is the name of a recipe, not {base!r}")
    if base.endswith(".toml"):
        base = str(Path(name).parent / base)
    return merged(_read_with_bases(base, (*derived, name)), table)


def merged(table: Table, changes: Mapping[str, Any]) -> Table:
    """`table` with `changes` on top, tables within it likewise."""
    both = {**table, **changes}
    for name, value in changes.items():
        if isinstance(value, dict) and isinstance(table.get(name), dict):
            both[name] = merged(table[name], value)
    return both


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


def _resolve(table: Table, changes: Table) -> Recipe:
    """The recipe of `table` with the overrides `changes`, both as they were read."""
    common, changed = dict(table), dict(changes)
    for_objectives = _objective_tables(common.pop("objectives", {}))
    differences = merged(_teacher_table(common.pop("teacher", None)), _teacher_table(changed.pop("teacher", None)))
    has_teacher = "teacher" in table or "teacher" in changes
    common, changed = _convert_all(common, ""), _convert_all(changed, "")
    objective = changed.get("objective", common.get("objective"))
    student = {**common, **_published(for_objectives, objective), **changed}
    teacher = None
    if has_teacher:
        differences = _convert_all(differences, "teacher.")
        objective = differences.get("objective", TEACHER["objective"])
        own = {**TEACHER, **_published(for_objectives, objective), **differences}
        teacher = _build({**common, **changed, **own}, None, "teacher.")
        if OBJECTIVES[teacher.objective].needs_teacher:
            raise RecipeProblem(f"teacher.objective = {teacher.objective!r} would itself need a teacher")
    recipe = _build(student, teacher, "")
    if OBJECTIVES[recipe.objective].needs_teacher and teacher is None:
        raise RecipeProblem(f"the objective {recipe.objective} needs a [teacher] table in its recipe")
    return recipe


def _teacher_table(table: Any) -> Table:
    if table is not None and not isinstance(table, dict):
        raise RecipeProblem("teacher is a table of settings, written [teacher] or teacher.key=value")
    return table or {}


def _objective_tables(tables: Any) -> dict[str, Table]:
    """The tables [objectives.NAME], converted; all are checked, whichever applies."""
    if not isinstance(tables, dict) or not all(isinstance(table, dict) for table in tables.values()):
        raise RecipeProblem("objectives holds a table of settings for each objective, written [objectives.NAME]")
    for name in tables:
        if name not in OBJECTIVES:
            raise RecipeProblem(f"there is no objective {name!r}; there are {', '.join(CHOICES['objective'])}")
    return {name: _convert_all(table, f"objectives.{name}.") for name, table in tables.items()}


def _published(tables: Mapping[str, Table], objective: Any) -> Table:
    """What applies with an objective: the table of what it is a variant of, and its own."""
    if objective not in OBJECTIVES:  # missing, which `_build` says
        return {}
    original = OBJECTIVES[objective].variant_of
    return {**(tables.get(original, {}) if original else {}), **tables.get(objective, {})}


def _build(values: Mapping[str, Any], teacher: Recipe | None, prefix: str) -> Recipe:
    required = {entry.name for entry in fields(Recipe) if entry.default is MISSING}
    missing = sorted(required - set(values))
    if missing:
        raise RecipeProblem(f"the recipe lacks {', '.join(prefix + name for name in missing)}")
    recipe = Recipe(**values, teacher=teacher)
    if recipe.ramp_start > recipe.ramp_end:
        raise RecipeProblem(f"{prefix}ramp_start = {recipe.ramp_start} lies after ramp_end = {recipe.ramp_end}")
    if recipe.ramp_end > recipe.epochs:
        raise RecipeProblem(
            f"{prefix}ramp_end = {recipe.ramp_end} lies after the last of {recipe.epochs} epochs: the radius "
            "would never be the full one"
        )
    if recipe.swa_start >= recipe.epochs:
        raise RecipeProblem(f"{prefix}swa_start = {recipe.swa_start} lies after the last of {recipe.epochs} epochs")
    if recipe.init == "teacher" and not (teacher and OBJECTIVES[recipe.objective].needs_teacher):
        raise RecipeProblem(f"{prefix}init = 'teacher' needs an objective with a teacher")
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
    if name in REFERENCES:
        exists, possible = REFERENCES[name]
        if not exists(converted):
            raise RecipeProblem(f"{prefix}{name} = {value!r} does not exist; there are {possible}")
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
