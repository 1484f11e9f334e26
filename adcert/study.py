"""Studies: many students by recipes x seeds x objectives x settings, each trained, exported and verified once.

A study is a TOML file. Whatever was finished is kept, so that a study goes on where it was interrupted; its order makes
an unfinished one a fair comparison of fewer seeds. The test set decides nothing: among the settings that a study lists
for an objective, held-out training images do. It may let them do so early: all settings with some of the seeds, and
with the others only those that came out best.
"""

from __future__ import annotations

import itertools
import tomllib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from adcert import recipe as recipes
from adcert import results, session, sources
from adcert import run as runs
from adcert.data import load_training_data
from adcert.export import export
from adcert.files import names_in, read_named, sha256
from adcert.problems import Diverged, StudyProblem
from adcert.recipe import Recipe
from adcert.results import Finding, Outcome
from adcert.run import Run
from adcert.train import Reporter
from verify.bounds.methods import COMPLETE, METHODS
from verify.files import write_atomically
from verify.tasks.effort import Effort
from verify.tasks.result import Summary, read_verdicts
from verify.tasks.robustness import Verdict
from verify.tasks.task import answer, question_about

CONTRACT = "float32-any-order"


@dataclass(frozen=True)
class Student:
    """One run of a study. base: the recipe as the study names it. label: of its [[students]] table.

    settings: what tells it from the other students of its recipe and label, but the seed.
    """

    base: str
    label: str
    recipe: Recipe
    settings: Mapping[str, Any]

    @property
    def name(self) -> str:
        """Its folder below that of the study: recipe/label_setting-value_seed-0."""
        parts = [f"{key}-{value}" for key, value in [*self.settings.items(), ("seed", self.recipe.seed)]]
        return f"{plain_name(self.base)}/{'_'.join([self.label, *parts]).replace('/', '-')}"


@dataclass(frozen=True)
class Study:
    """students: recipe by recipe, seed by seed. method: of `verify`; timeout: its seconds per sample.

    selection_seeds: those that all settings are trained with; the others get only the settings that are selected then.
    test: the test set of the recipes' own data (FILE.npz), if they have such. test_samples: how many of the test set,
    None for all. selection_samples: how many held-out training images.
    """

    name: str
    students: tuple[Student, ...]
    selection_seeds: frozenset[int]
    method: str
    timeout: float | None
    test: str | None
    test_samples: int | None
    selection_samples: int

    def is_candidate(self, student: Student) -> bool:
        """Whether it is trained whatever other students come to."""
        return student.recipe.seed in self.selection_seeds


def plain_name(name: str) -> str:
    """What a recipe or study is called where its folder does not matter."""
    return Path(name).stem if name.endswith(".toml") else name


def names() -> list[str]:
    """The studies that ship with the package."""
    return names_in("studies")


def load(name: str) -> Study:
    """The study in TOML file `name`, or the one that ships under that name.

    `recipes` and `seeds` are lists, and so may be any setting in a [[students]] table, which then stands for one
    student per value; its `label`, by default its objective, tells it from other tables. `settings` holds overrides for
    all; `selection_seeds` are those of `seeds` that select, by default all. Raises StudyProblem, and RecipeProblem for
    wrong settings.
    """
    try:
        table = tomllib.loads(read_named("studies", name, "study", StudyProblem))
    except tomllib.TOMLDecodeError as error:
        raise StudyProblem(f"the study {name} is not valid TOML: {error}") from None
    known: dict[str, type] = {"recipes": list, "seeds": list, "students": list, "method": str, "settings": dict}
    known |= {"test": str, "test_samples": int, "selection_samples": int, "selection_seeds": list, "timeout": float}
    for key, value in table.items():
        if key not in known:
            raise StudyProblem(f"the study {name} has an unknown entry {key}; there are {', '.join(sorted(known))}")
        if type(value) is not known[key] and (key, type(value)) != ("timeout", int):
            raise StudyProblem(f"{key} of the study {name} is not a {known[key].__name__}: {value!r}")
    if missing := [key for key in ("recipes", "students") if not table.get(key)]:
        raise StudyProblem(f"the study {name} lacks {' and '.join(missing)}")
    method = table.get("method", "crown")
    if method not in METHODS:
        raise StudyProblem(f"the method {method!r} does not exist; there are {', '.join(METHODS)}")
    samples = [table[key] for key in ("test_samples", "selection_samples") if key in table]
    if any(count < 1 for count in samples):
        raise StudyProblem(f"test_samples and selection_samples of the study {name} are at least 1")
    if not table.get("timeout", 1) > 0:
        raise StudyProblem(f"the timeout of the study {name} is not positive")
    seeds = table.get("seeds", [0])
    selection_seeds = table.get("selection_seeds", seeds)
    if not selection_seeds or not all(seed in seeds for seed in selection_seeds):
        raise StudyProblem(f"selection_seeds of the study {name} are one or more of its seeds")
    # Those that select come first.
    seeds = [*selection_seeds, *(seed for seed in seeds if seed not in selection_seeds)]
    students = tuple(_students(table, seeds, Path(name).parent if name.endswith(".toml") else Path()))
    if len({student.name for student in students}) < len(students):
        raise StudyProblem(f"the study {name} lists the same student twice")
    own = sorted({student.recipe.dataset for student in students if sources.is_own(student.recipe.dataset)})
    if own and "test" not in table:
        raise StudyProblem(f"the study {name} trains on {own[0]}: name its test set with test = FILE.npz")
    if "test" in table and not own:
        raise StudyProblem(f"test names the test set of data of your own, but the study {name} trains on none")
    least = min(student.recipe.held_out for student in students)
    if table.get("selection_samples", 1) > least:
        raise StudyProblem(f"the study {name} selects by more images than the {least} that are held out (held_out)")
    return Study(
        name=plain_name(name),
        students=students,
        selection_seeds=frozenset(selection_seeds),
        method=method,
        timeout=table.get("timeout"),
        test=table.get("test"),
        test_samples=table.get("test_samples"),
        selection_samples=table.get("selection_samples", 1000),
    )


def _students(table: Mapping[str, Any], seeds: list[int], folder: Path) -> Iterator[Student]:
    """Recipe by recipe and seed by seed, so that what is finished first compares all objectives."""
    for entry in table["students"]:
        if not isinstance(entry, dict) or not isinstance(entry.get("objective"), str):
            raise StudyProblem("each [[students]] table names its objective")
        if not isinstance(entry.get("label", ""), str):
            raise StudyProblem(f"the label of a [[students]] table is a text, not {entry['label']!r}")
        if not isinstance(entry.get("recipes", []), list):
            raise StudyProblem(f"the recipes of a [[students]] table are a list, not {entry['recipes']!r}")
        if empty := [key for key, value in entry.items() if value == []]:
            raise StudyProblem(f"{empty[0]} = [] stands for no student at all: [[]] is one whose {empty[0]} is empty")
    for place in (table.get("settings", {}), *table["students"]):
        if "seed" in place:
            raise StudyProblem("the seeds of a study are its own entry: seeds = [...]")
    if "objective" in table.get("settings", {}):
        raise StudyProblem("each [[students]] table names its objective, so that settings cannot")
    bases = [base for entry in table["students"] for base in entry.get("recipes", table["recipes"])]
    if strange := [base for base in bases if not isinstance(base, str)]:
        raise StudyProblem(f"recipes are names of recipes, not {strange[0]!r}")
    for base, seed, entry in itertools.product(dict.fromkeys(bases), seeds, table["students"]):
        if base in entry.get("recipes", table["recipes"]):
            yield from _of_entry(entry, table.get("settings", {}), base, seed, folder)


def _of_entry(entry: dict[str, Any], settings: dict[str, Any], base: str, seed: int, folder: Path) -> Iterator[Student]:
    """A student for each combination of the values that are listed."""
    own = {key: value for key, value in entry.items() if key not in ("recipes", "label")}
    swept = {key: value for key, value in own.items() if isinstance(value, list)}
    found = str(folder / base) if base.endswith(".toml") else base
    for values in itertools.product(*swept.values()):
        chosen = dict(zip(swept, values, strict=True))
        changes = recipes.merged(settings, {**own, **chosen, "seed": seed})
        yield Student(base, entry.get("label", own["objective"]), recipes.load_changed(found, changes), chosen)


def execute(
    study: Study,
    folder: Path,
    device: torch.device,
    reporter: Reporter,
    say: Callable[[str], None],
    *,
    jobs: int = 1,
) -> Iterator[list[Outcome]]:
    """Bring every student to its end in `folder`; yields the outcomes after each of them, those to come at the end.
    jobs: processes that verify.

    A student whose loss diverges is noted and left; the others go on.
    """
    done: list[Outcome] = []
    remaining = list(study.students)
    while remaining:
        student, *later = remaining
        to_come = _to_come(study, later)
        say(f"{student.name} ({len(done) + 1} of {len(done) + 1 + len(to_come)})")
        outcome = _outcome(study, student, folder, device, reporter, jobs)
        say(f"{student.name}: {outcome.sentence}")
        done.append(outcome)
        remaining = _wanted(study, later, done)
        yield [*done, *_to_come(study, remaining)]


def _wanted(study: Study, remaining: list[Student], done: list[Outcome]) -> list[Student]:
    """Without those whose settings were not selected, wherever the selection is over."""
    pending = {(student.base, student.label) for student in remaining if study.is_candidate(student)}
    selected = {group.key for group in results.groups(done) if group.selected}
    return [
        student
        for student in remaining
        if (student.base, student.label) in pending
        or (student.base, student.label, results.setting_text(student.settings)) in selected
    ]


def _to_come(study: Study, remaining: list[Student]) -> list[Outcome]:
    """What is to come, without settings where they are still to be selected."""
    together: dict[tuple[Any, ...], list[Student]] = {}
    for student in remaining:
        settings = student.name if study.is_candidate(student) else ""
        together.setdefault((student.base, student.label, student.recipe.seed, settings), []).append(student)
    found = [(replace(_unknown(first), problem=results.TO_COME), others) for first, *others in together.values()]
    return [replace(outcome, settings={}, model="") if others else outcome for outcome, others in found]


def _unknown(student: Student) -> Outcome:
    return Outcome(
        recipe=student.base,
        label=student.label,
        objective=student.recipe.objective,
        dataset=student.recipe.dataset,
        eps=student.recipe.eps.text,
        settings=dict(student.settings),
        seed=student.recipe.seed,
        model=f"{student.name}/model.onnx",
    )


def _outcome(
    study: Study, student: Student, folder: Path, device: torch.device, reporter: Reporter, jobs: int
) -> Outcome:
    run = _run_of(student, folder / student.name)
    outcome = _unknown(student)
    try:
        trained = session.execute(run, device, reporter)
    except Diverged as problem:
        return replace(outcome, problem=str(problem))
    model = run.folder / "model.onnx"
    if not model.exists():
        export(trained, model)
    held_out = _verified(study, model, _held_out_file(study, student, folder), run.folder / "held-out.json", None, jobs)
    data = study.test if sources.is_own(student.recipe.dataset) else student.recipe.dataset
    assert data is not None
    test = _verified(study, model, data, run.folder / "test.json", study.test_samples, jobs)
    return replace(
        outcome,
        model_sha256=test.model_sha256,
        held_out=held_out,
        test=test,
        training_time_s=round(sum(line["time_s"] for line in run.metrics()), 3),
    )


def _run_of(student: Student, folder: Path) -> Run:
    """The student's run, started if it is not there; raises StudyProblem if another recipe was run in its folder."""
    if not folder.exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
        return session.start(folder, student.recipe, None)
    run = runs.open_run(folder)
    if run.recipe != student.recipe:
        raise StudyProblem(f"{folder} holds a run by another recipe: the study has changed, choose another --out")
    return run


def _held_out_file(study: Study, student: Student, folder: Path) -> str:
    """The student's held-out training images as a file that `verify` reads."""
    recipe = student.recipe
    wanted = (recipe.dataset, sources.fingerprint(recipe.dataset), recipe.held_out, study.selection_samples)
    path = folder / Path(student.name).parent / f"held-out-{sha256(repr(wanted).encode())[:8]}.npz"
    if not path.exists():
        data = load_training_data(recipe.dataset, recipe.held_out, torch.device("cpu")).held_out
        partial = path.with_suffix(".part.npz")
        count = study.selection_samples
        np.savez(partial, x=data.images[:count].numpy(), y=data.labels[:count].numpy())
        partial.replace(path)
    return str(path)


def _verified(study: Study, model: Path, data: str, result: Path, count: int | None, jobs: int) -> Finding:
    """What `verify` proves about `model`, from the result file if it is complete, else after completing it."""
    network, question = question_about(
        str(model),
        data=data,
        eps=None,
        start=0,
        count=count,
        method=study.method,
        contract=CONTRACT,
        timeout_s=study.timeout,
        attack=Effort() if study.method == COMPLETE else None,  # else all that is not robust takes its time limit
    )
    verdicts: list[Verdict] = read_verdicts(result, question) if result.exists() else []
    if len(verdicts) < len(question.data):
        answer(network, question, verdicts, result_path=result, jobs=jobs)
    summary = Summary.of(verdicts, attacked=question.attack is not None)
    return Finding(
        model_sha256=network.sha256,
        samples=summary.samples,
        clean=summary.clean_accuracy,
        attacked=summary.attacked_accuracy,
        certified=summary.certified_accuracy,
        undecided=summary.undecided,
        time_s=round(summary.time_s, 3),
    )


def write(study: Study, folder: Path, outcomes: list[Outcome]) -> list[Path]:
    """results.csv, results.json and results.md, and one trade-off plot per recipe where matplotlib is installed."""
    written = [folder / "results.csv", folder / "results.json", folder / "results.md"]
    write_atomically(written[0], results.as_csv(outcomes))
    write_atomically(written[1], results.as_json(study.name, study.method, study.timeout, CONTRACT, outcomes))
    write_atomically(written[2], results.as_markdown(outcomes))
    try:
        from adcert.plots import trade_off
    except ModuleNotFoundError:  # an optional extra
        return written
    for recipe in dict.fromkeys(outcome.recipe for outcome in outcomes):
        path = folder / f"{plain_name(recipe)}.svg"
        write_atomically(path, trade_off([outcome for outcome in outcomes if outcome.recipe == recipe]))
        written.append(path)
    return written
