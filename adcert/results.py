"""What a study found: one row per student, means over seeds, and the settings that held-out images select."""

from __future__ import annotations

import csv
import io
import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from verify.tasks.result import versions

SCHEMA_VERSION = 1

TO_COME = "to come"  # the problem of a student that an unfinished study has not reached


@dataclass(frozen=True)
class Finding:
    """Verification of one model on one set of samples; accuracies in percent, attacked: None without an attack."""

    model_sha256: str
    samples: int
    clean: float
    attacked: float | None
    certified: float
    undecided: int
    time_s: float


@dataclass(frozen=True)
class Outcome:
    """One student. problem: why it has no results, if it has none; TO_COME until it had its turn."""

    recipe: str
    label: str
    objective: str
    dataset: str
    eps: str
    settings: Mapping[str, Any]
    seed: int
    model: str
    model_sha256: str | None = None
    held_out: Finding | None = None
    test: Finding | None = None
    training_time_s: float | None = None
    problem: str | None = None

    @property
    def group(self) -> tuple[str, str, str]:
        """Recipe, label and settings: what students share that differ in nothing but their seeds."""
        return self.recipe, self.label, setting_text(self.settings)

    @property
    def sentence(self) -> str:
        if self.test is None:
            return self.problem or ""
        return f"clean {self.test.clean:.2f} %, certified {self.test.certified:.2f} % of {self.test.samples}"


@dataclass(frozen=True)
class Group:
    """Means and sample standard deviations over seeds, in percent; deviations are 0 for a single seed. training_time_s:
    the mean, without the teacher's.

    selected: whether its certified accuracy on held-out training images is the best among the settings of its label and
    recipe, on the seeds that all of them have (the clean one decides between equals). None is, before all have some.
    """

    recipe: str
    label: str
    settings: str
    seeds: int
    clean: float
    clean_deviation: float
    attacked: float | None
    certified: float
    certified_deviation: float
    held_out_clean: float
    held_out_certified: float
    training_time_s: float
    selected: bool

    @property
    def key(self) -> tuple[str, str, str]:
        return self.recipe, self.label, self.settings


def to_come(outcomes: Sequence[Outcome]) -> int:
    """How many students have not had their turn."""
    return sum(outcome.problem == TO_COME for outcome in outcomes)


def setting_text(settings: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} = {value}" for name, value in settings.items())


def groups(outcomes: Sequence[Outcome]) -> list[Group]:
    """The outcomes that have results, seeds put together, in the order of the study."""
    members: dict[tuple[str, str, str], list[Outcome]] = {}
    for outcome in outcomes:
        if outcome.test and outcome.held_out:
            members.setdefault(outcome.group, []).append(outcome)
    compared = {key[:2] for key in members} - {
        outcome.group[:2] for outcome in outcomes if outcome.problem == TO_COME and outcome.group not in members
    }
    best = {_selected(recipe, label, members) for recipe, label in compared}
    return [_group(key, part, key in best) for key, part in members.items()]


def _selected(recipe: str, label: str, members: Mapping[tuple[str, str, str], list[Outcome]]) -> tuple[str, str, str]:
    rivals = {key: part for key, part in members.items() if key[:2] == (recipe, label)}
    common = set.intersection(*({outcome.seed for outcome in part} for part in rivals.values()))

    def merit(key: tuple[str, str, str]) -> tuple[float, float]:
        compared = [outcome for outcome in rivals[key] if outcome.seed in common] or rivals[key]
        held_out = [outcome.held_out for outcome in compared if outcome.held_out]
        return (
            statistics.mean(finding.certified for finding in held_out),
            statistics.mean(finding.clean for finding in held_out),
        )

    return max(rivals, key=merit)


def _group(key: tuple[str, str, str], outcomes: Sequence[Outcome], selected: bool) -> Group:
    tests = [outcome.test for outcome in outcomes if outcome.test]
    held_out = [outcome.held_out for outcome in outcomes if outcome.held_out]

    def deviation(values: list[float]) -> float:
        return statistics.stdev(values) if len(values) > 1 else 0.0

    clean, certified = [test.clean for test in tests], [test.certified for test in tests]
    attacked = [test.attacked for test in tests if test.attacked is not None]
    return Group(
        *key,
        seeds=len(outcomes),
        clean=statistics.mean(clean),
        clean_deviation=deviation(clean),
        attacked=statistics.mean(attacked) if attacked else None,
        certified=statistics.mean(certified),
        certified_deviation=deviation(certified),
        held_out_clean=statistics.mean(finding.clean for finding in held_out),
        held_out_certified=statistics.mean(finding.certified for finding in held_out),
        training_time_s=statistics.mean(outcome.training_time_s or 0.0 for outcome in outcomes),
        selected=selected,
    )


def as_markdown(outcomes: Sequence[Outcome]) -> bytes:
    """A table per recipe: means and deviations over seeds on the test set, in percent, and what is missing."""
    lines: list[str] = []
    for recipe in dict.fromkeys(outcome.recipe for outcome in outcomes):
        of_recipe = [outcome for outcome in outcomes if outcome.recipe == recipe]
        lines += [f"## {recipe}", ""]
        if missing := to_come(of_recipe):
            lines += [f"Unfinished: {missing} of {len(of_recipe)} students are to come.", ""]
        for outcome in of_recipe:
            if outcome.problem and outcome.problem != TO_COME:
                lines += [f"No results of {outcome.model}: {outcome.problem}.", ""]
        lines += ["| objective | settings | seeds | clean | under attack | certified | selected | training |"]
        lines += ["| --- | --- | --- | --- | --- | --- | --- | --- |"]
        lines += [_line(group) for group in groups(of_recipe)] + [""]
    return "\n".join(lines).encode()


def _line(group: Group) -> str:
    def spread(mean: float, deviation: float) -> str:
        return f"{mean:.2f} ± {deviation:.2f}" if group.seeds > 1 else f"{mean:.2f}"

    cells = [
        group.label,
        group.settings,
        str(group.seeds),
        spread(group.clean, group.clean_deviation),
        "" if group.attacked is None else f"{group.attacked:.2f}",
        spread(group.certified, group.certified_deviation),
        "yes" if group.selected else "",
        f"{group.training_time_s:.0f} s",
    ]
    return f"| {' | '.join(cells)} |"


def as_csv(outcomes: Sequence[Outcome]) -> bytes:
    """One row per student; times in seconds, accuracies in percent."""
    selected = {group.key for group in groups(outcomes) if group.selected}
    rows = [_row(outcome, outcome.group in selected) for outcome in outcomes]
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]) if rows else [], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode()


def _row(outcome: Outcome, selected: bool) -> dict[str, Any]:
    test, held_out = outcome.test, outcome.held_out
    return {
        "recipe": outcome.recipe,
        "label": outcome.label,
        "objective": outcome.objective,
        "settings": setting_text(outcome.settings),
        "seed": outcome.seed,
        "samples": test and test.samples,
        "clean": test and test.clean,
        "attacked": test and test.attacked,
        "certified": test and test.certified,
        "undecided": test and test.undecided,
        "held_out_clean": held_out and held_out.clean,
        "held_out_certified": held_out and held_out.certified,
        "selected": "yes" if selected else "no",
        "training_time_s": outcome.training_time_s,
        "verification_time_s": test and test.time_s,
        "model": outcome.model,
        "model_sha256": outcome.model_sha256,
        "problem": outcome.problem,
    }


def as_json(study: str, method: str, timeout_s: float | None, contract: str, outcomes: Sequence[Outcome]) -> bytes:
    """Everything, with means over seeds. to_come: how many students an unfinished study has not reached."""
    content = {
        "schema_version": SCHEMA_VERSION,
        "study": study,
        "method": method,
        "timeout_s": timeout_s,
        "contract": contract,
        "to_come": to_come(outcomes),
        "groups": [asdict(group) for group in groups(outcomes)],
        "students": [asdict(outcome) for outcome in outcomes],
        "versions": versions(),
    }
    return (json.dumps(content, indent=1, allow_nan=False) + "\n").encode()
