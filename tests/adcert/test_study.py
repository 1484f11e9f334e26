"""Studies: every student once, resumable at any point, selection by held-out images, a table and a picture."""

from __future__ import annotations

import csv
import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import cli
from adcert import recipe as recipes
from adcert import session, train
from adcert import study as studies
from adcert.anchors import anchors
from adcert.benchmark import BENCHMARKS
from adcert.library import Silent
from adcert.plots import trade_off
from adcert.problems import Diverged, RecipeProblem, StudyProblem
from adcert.recipe import Recipe
from adcert.results import TO_COME, Finding, Outcome, as_markdown, groups
from verify import datasets
from verify.tasks.effort import Effort
from verify.tasks.result import Question

STUDY = """
recipes = ["small.toml"]
seeds = [0, 1]
method = "ibp"
test_samples = 20
selection_samples = 10

[settings]
epochs = 1
ramp_end = 0
lr_milestones = []
teacher.epochs = 1

[[students]]
objective = "mtl-ibp"
alpha = [0.2, 1.0]

[[students]]
objective = "ad-cert"
recipes = ["small.toml"]
alpha = 0.5
"""
STUDENT = Path(__file__).parents[2] / "exported" / "mnist-0.1-small.onnx"
NAMES = [
    "small/mtl-ibp_alpha-0.2_seed-0",
    "small/mtl-ibp_alpha-1.0_seed-0",
    "small/ad-cert_seed-0",
    "small/mtl-ibp_alpha-0.2_seed-1",
    "small/mtl-ibp_alpha-1.0_seed-1",
    "small/ad-cert_seed-1",
]


@pytest.fixture
def study_file(tmp_path: Path, recipe_file: Path) -> Path:
    path = tmp_path / "mine.toml"
    path.write_text(STUDY)
    return path


def run(study_file: Path, monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.chdir(study_file.parent)
    monkeypatch.setattr(sys, "argv", ["adcert", "study", str(study_file), "--device", "cpu", *arguments])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert isinstance(ended.value.code, int)
    return ended.value.code


def test_the_students_of_a_study(study_file: Path) -> None:
    study = studies.load(str(study_file))
    assert [student.name for student in study.students] == NAMES
    first = study.students[0].recipe
    assert (first.alpha, first.epochs, first.seed, first.lr_milestones) == (0.2, 1, 0, ())
    assert study.students[4].recipe.alpha == 1.0
    last = study.students[-1].recipe
    assert (last.objective, last.alpha, last.seed) == ("ad-cert", 0.5, 1)
    assert last.teacher is not None
    assert (last.teacher.epochs, last.teacher.seed) == (1, 1)


def test_the_study_for_a_cpu_compares_objectives_and_nothing_else() -> None:
    study = studies.load("mnist-cpu")
    assert {student.recipe.objective for student in study.students} == {
        "ad-cert",
        "cc-ad",
        "cc-dist",
        "mtl-ibp",
        "cc-ibp",
        "sabr",
        "ibp",
    }
    assert {student.recipe.eps.text for student in study.students} == {"0.1", "0.3"}
    assert {student.recipe.seed for student in study.students} == {0, 1, 2}
    # Students of one recipe differ in nothing but the objective, its setting and the seed.
    own = {"objective", "alpha", "small_box", "seed", "teacher"}
    for base in ("mnist-0.1", "mnist-0.3"):
        of_base = [vars(student.recipe) for student in study.students if student.base == base]
        assert {key for key, value in of_base[0].items() if any(each[key] != value for each in of_base)} == own
    # Students of one recipe and seed learn from one teacher.
    teachers = {recipes.key(s.recipe.teacher) for s in study.students if s.recipe.teacher is not None}
    assert len(teachers) == 2 * 3


def test_a_whole_study(study_file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    folder = study_file.parent / "runs" / "mine"
    calls = 0
    train_epoch = train.train_epoch

    def interrupted(*arguments: object, **options: object) -> object:
        nonlocal calls
        calls += 1
        if calls == 4:
            raise KeyboardInterrupt
        return train_epoch(*arguments, **options)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(train, "train_epoch", interrupted)
        assert run(study_file, patch) == 130
    assert "Interrupted; go on with" in capsys.readouterr().err
    with (folder / "results.csv").open() as file:
        problems = [row["problem"] for row in csv.DictReader(file)]
    assert problems == ["", ""] + 4 * ["to come"]  # what was finished is in the table already
    assert json.loads((folder / "results.json").read_bytes())["to_come"] == 4
    assert "(unfinished: 4 of 6 students to come)" in (folder / "small.svg").read_text()

    assert run(study_file, monkeypatch) == 0
    with (folder / "results.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["model"] for row in rows] == [f"{name}/model.onnx" for name in NAMES]
    for row in rows:
        assert (folder / row["model"]).exists()
        result = json.loads((folder / row["model"]).with_name("test.json").read_bytes())
        assert float(row["certified"]) == result["summary"]["certified_accuracy"]
        assert row["model_sha256"] == result["model"]["sha256"]
        assert (result["data"]["name"], result["data"]["split"], len(result["samples"])) == ("mnist", "test", 20)
        held_out = json.loads((folder / row["model"]).with_name("held-out.json").read_bytes())
        assert len(held_out["samples"]) == 10
        assert held_out["data"]["name"].startswith("held-out")
    content = json.loads((folder / "results.json").read_bytes())
    assert (content["schema_version"], content["method"], len(content["students"])) == (1, "ibp", 6)
    assert (content["to_come"], content["timeout_s"]) == (0, None)
    assert [group["seeds"] for group in content["groups"]] == [2, 2, 2]
    assert sum(group["selected"] for group in content["groups"]) == 2  # one per objective
    picture = (folder / "small.svg").read_text()
    assert "alpha = 0.2" in picture
    assert "MN-BaB" in picture  # published points: small.toml is MNIST at 1/10

    # A finished study is only read.
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*/*") if path.is_file()}
    table = (folder / "results.csv").read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(train, "train_epoch", None)
        patch.setattr(studies, "answer", None)
        patch.setattr(studies, "export", None)
        assert run(study_file, patch) == 0
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert (folder / "results.csv").read_bytes() == table
    assert (folder / "small.svg").read_text() == picture


def test_a_student_that_diverges_leaves_the_others_alone(
    study_file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    study_file.write_text(STUDY.replace("seeds = [0, 1]", "").replace('objective = "ad-cert"', 'objective = "ibp"'))
    execute = session.execute

    def diverging(started: object, *arguments: object) -> object:
        if "alpha-0.2" in str(started):
            raise Diverged("the loss is not finite in epoch 1")
        return execute(started, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(session, "execute", diverging)
    assert run(study_file, monkeypatch) == 1
    assert "small/mtl-ibp_alpha-0.2_seed-0: the loss is not finite" in capsys.readouterr().err
    with (study_file.parent / "runs" / "mine" / "results.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [bool(row["problem"]) for row in rows] == [True, False, False]
    assert rows[0]["certified"] == ""


def test_another_study_in_the_same_folder(study_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    study_file.write_text(
        STUDY.replace("alpha = [0.2, 1.0]", "alpha = [1.0]").split('[[students]]\nobjective = "ad')[0]
    )
    assert run(study_file, monkeypatch) == 0
    study_file.write_text(study_file.read_text().replace("epochs = 1\nramp", "epochs = 2\nramp"))
    assert run(study_file, monkeypatch) == 2


def test_some_seeds_select_and_the_others_get_what_they_selected(
    study_file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    study_file.write_text(STUDY.replace("seeds = [0, 1]", "seeds = [1, 0]\nselection_seeds = [0]"))
    assert run(study_file, monkeypatch, "--list") == 0
    names = capsys.readouterr().out.splitlines()
    assert names == [name + (" (if selected)" if name.endswith("1") else "") for name in NAMES]

    study = studies.load(str(study_file))
    trained: list[str] = []

    def outcome_of(study: studies.Study, student: studies.Student, *_: object) -> Outcome:
        trained.append(student.name)
        # On the test set, and with the other seed, the setting that is not selected would be the better one.
        held_out, test = {"": (80, 80), "0.2": (90, 70), "1.0": (70, 90)}[str(student.settings.get("alpha", ""))]
        found = outcome(0, 0, (99, held_out if student.recipe.seed == 0 else 10), (99, test))
        return replace(studies._unknown(student), held_out=found.held_out, test=found.test)

    monkeypatch.setattr(studies, "_outcome", outcome_of)
    said: list[str] = []
    steps = list(studies.execute(study, study_file.parent, torch.device("cpu"), Silent(), said.append))
    assert trained == [NAMES[index] for index in (0, 1, 2, 3, 5)]
    assert [line.split("(")[1] for line in said if "(" in line] == [f"{number} of 5)" for number in range(1, 6)]
    # While the selection goes on, what is to come of the other seeds has no settings yet.
    assert [(each.settings, each.seed) for each in steps[0] if each.problem == "to come"] == [
        ({"alpha": 1.0}, 0),
        ({}, 0),
        ({}, 1),
        ({}, 1),
    ]
    assert [(each.settings, each.seed) for each in steps[1] if each.problem == "to come"] == [
        ({}, 0),
        ({"alpha": 0.2}, 1),
        ({}, 1),
    ]
    selected = [[group.selected for group in groups(step)] for step in steps[:3]]
    assert selected == [[False], [True, False], [True, False, True]]
    last = groups(steps[-1])
    assert [(group.settings, group.seeds, group.selected) for group in last] == [
        ("alpha = 0.2", 2, True),
        ("alpha = 1.0", 1, False),
        ("", 2, True),
    ]


def test_time_limit_attack_and_processes_reach_the_verifier(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def answer(network: object, question: Question, *_: object, jobs: int, **__: object) -> None:
        asked.append((question.timeout_s, question.attack, jobs))
        raise KeyboardInterrupt

    monkeypatch.setattr(studies, "answer", answer)
    with pytest.raises(KeyboardInterrupt):
        studies._verified(studies.load("mnist-cpu"), STUDENT, "mnist", tmp_path / "test.json", 1, 3)
    assert asked == [(1, Effort(), 3)]


def test_a_label_tells_tables_of_one_objective_apart(study_file: Path) -> None:
    clean = '[[students]]\nobjective = "ad-cert"\nlabel = "clean teacher"\nalpha = 0.5\nteacher.objective = "standard"'
    study_file.write_text(STUDY + clean)
    last = studies.load(str(study_file)).students[-1]
    assert last.name == "small/clean teacher_seed-1"
    assert last.recipe.teacher is not None
    assert (last.recipe.objective, last.recipe.teacher.objective) == ("ad-cert", "standard")
    assert last.recipe.teacher.epochs == 1


def test_listing(study_file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(study_file, monkeypatch, "--list") == 0
    assert capsys.readouterr().out.split() == NAMES


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (("method =", "methods ="), "has an unknown entry methods"),
        (('"ibp"', '"guess"'), "the method 'guess' does not exist; there are ibp"),
        (("seeds = [0, 1]", "seeds = 2"), "seeds of the study .* is not a list"),
        (('recipes = ["small.toml"]', "recipes = []"), "lacks recipes"),
        (('objective = "mtl-ibp"', ""), r"each \[\[students\]\] table names its objective"),
        (('recipes = ["small.toml"]\nalpha', 'recipes = "small.toml"\nalpha'), "are a list, not 'small.toml'"),
        (("alpha = 0.5", "lr_milestones = []"), r"lr_milestones = \[\] stands for no student at all: \[\[\]\] is one"),
        (("alpha = 0.5", "seed = 3"), r"the seeds of a study are its own entry: seeds = \[...\]"),
        (("epochs = 1", "seed = 3"), r"the seeds of a study are its own entry: seeds = \[...\]"),
        (("epochs = 1", 'objective = "ibp"'), "each .* table names its objective, so that settings cannot"),
        (("test_samples = 20", "test = 'mine.npz'"), "test names the test set of data of your own, but the study"),
        (("selection_samples = 10", "selection_samples = 41"), "more images than the 40 that are held out"),
        (("test_samples = 20", "timeout = nan"), "the timeout of the study .* is not positive"),
        (("alpha = 0.5", "label = 1"), "the label of a .* table is a text, not 1"),
        (("[0.2, 1.0]", "[0.2, 0.2]"), "lists the same student twice"),
        (("test_samples = 20", "test_samples = 0"), "are at least 1"),
        (("test_samples = 20", "timeout = 0"), "the timeout of the study .* is not positive"),
        (("test_samples = 20", "timeout = '1'"), "timeout of the study .* is not a float"),
        (
            ("test_samples = 20", "selection_seeds = [2]"),
            "selection_seeds of the study .* are one or more of its seeds",
        ),
        (("test_samples = 20", "selection_seeds = []"), "selection_seeds of the study .* are one or more of its seeds"),
        (("epochs = 1", 'epochs = 1\ndataset = "mine.npz"'), "name its test set with test = FILE.npz"),
        (("recipes", "="), "is not valid TOML"),
    ],
)
def test_mistakes(change: tuple[str, str], sentence: str, study_file: Path) -> None:
    study_file.write_text(STUDY.replace(*change, 1))
    with pytest.raises(StudyProblem, match=sentence):
        studies.load(str(study_file))


@pytest.mark.parametrize("name", studies.names())
def test_students_of_a_study_that_ships_share_network_data_and_teacher(name: str) -> None:
    of_recipes: dict[str, set[tuple[object, ...]]] = {}
    for student in studies.load(name).students:
        recipe = student.recipe
        assert recipe.teacher
        shared = (recipe.model, recipe.dataset, recipe.eps.text, recipe.seed, repr(replace(recipe.teacher, seed=0)))
        of_recipes.setdefault(f"{student.base} {recipe.seed}", set()).add(shared)
    assert all(len(found) == 1 for found in of_recipes.values())


def shrunk(recipe: Recipe) -> Recipe:
    """All that an objective is told is as it was; the radius has grown after one of two epochs of two steps."""
    teacher = recipe.teacher and shrunk(recipe.teacher)
    short = replace(recipe, epochs=2, ramp_start=0, ramp_end=1, lr_milestones=(1,), swa_start=min(recipe.swa_start, 1))
    return replace(
        short, model="cnn-small", batch_size=20, held_out=40, evaluation_steps=1, swa_every=1, teacher=teacher
    )


@pytest.mark.parametrize("name", ["mnist", "cifar10"])
def test_a_study_that_ships_runs_from_end_to_end(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images = np.random.default_rng(0).integers(0, 256, (80, *BENCHMARKS[name].shape), np.uint8)
    few = datasets.Dataset(name, None, images, np.arange(80) % 10)
    monkeypatch.setattr(datasets, "load", lambda name, split, **options: few)
    monkeypatch.setattr(session, "_draw", lambda run: None)  # takes longer than all the rest
    study = studies.load(name)
    one_each = {(student.base, student.recipe.objective): student for student in study.students}
    students = tuple(replace(student, recipe=shrunk(student.recipe)) for student in list(one_each.values())[::2])
    # Of two recipes by seven objectives, every objective once, in turn from the one and the other.
    assert len({student.base for student in students}) == 2
    assert {student.recipe.objective for student in students} == {
        student.recipe.objective for student in study.students
    }
    short = replace(study, students=students, method="ibp", timeout=None, test_samples=2, selection_samples=2)
    (*_, outcomes) = studies.execute(short, tmp_path, torch.device("cpu"), Silent(), lambda sentence: None)
    assert [outcome.test.samples for outcome in outcomes if outcome.test] == [2] * len(students)
    assert as_markdown(outcomes).decode().count("| yes |") == len(students)


def test_mistakes_in_settings_and_names(study_file: Path) -> None:
    study_file.write_text(STUDY.replace("alpha = 0.5", "beta = 0.5"))
    with pytest.raises(RecipeProblem, match="there is no setting beta"):
        studies.load(str(study_file))
    with pytest.raises(StudyProblem, match=r"there is no study 'cpu'; there are .*mnist-cpu, and any TOML file"):
        studies.load("cpu")


def outcome(alpha: float, seed: int, held_out: tuple[float, float], test: tuple[float, float]) -> Outcome:
    def finding(accuracies: tuple[float, float]) -> Finding:
        clean, certified = accuracies
        return Finding("", 100, clean, None, certified, undecided=0, time_s=1.0)

    return Outcome(
        recipe="r",
        label="ad-cert",
        objective="ad-cert",
        dataset="mnist",
        eps="0.1",
        settings={"alpha": alpha},
        seed=seed,
        model="m",
        held_out=finding(held_out),
        test=finding(test),
    )


def test_held_out_images_select_and_seeds_are_averaged() -> None:
    found = groups(
        [
            outcome(0.1, 0, (99, 90), (99, 99)),
            outcome(0.1, 1, (99, 90), (97, 97)),
            outcome(0.5, 0, (98, 92), (98, 80)),
            outcome(0.5, 1, (98, 90), (98, 80)),
            outcome(0.9, 0, (97, 91), (90, 90)),
        ]
    )
    assert [group.selected for group in found] == [False, True, False]  # 92 + 90, cleaner than 0.9
    assert (found[0].clean, found[0].seeds) == (98, 2)
    assert found[0].clean_deviation == pytest.approx(2**0.5)
    assert found[2].clean_deviation == 0


def test_the_table_shows_means_and_what_is_missing() -> None:
    outcomes = [
        outcome(0.1, 0, (99, 90), (99, 94)),
        outcome(0.1, 1, (99, 90), (97, 94)),
        outcome(0.5, 0, (98, 80), (98, 80)),
        replace(outcome(0.9, 0, (0, 0), (0, 0)), held_out=None, test=None, problem="the loss diverges"),
        replace(outcome(0.1, 2, (0, 0), (0, 0)), held_out=None, test=None, problem=TO_COME),
    ]
    assert as_markdown(outcomes).decode().splitlines() == [
        "## r",
        "",
        "Unfinished: 1 of 5 students are to come.",
        "",
        "No results of m: the loss diverges.",
        "",
        "| objective | settings | seeds | clean | under attack | certified | selected | training |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
        "| ad-cert | alpha = 0.1 | 2 | 98.00 ± 1.41 |  | 94.00 ± 0.00 | yes | 0 s |",
        "| ad-cert | alpha = 0.5 | 1 | 98.00 |  | 80.00 |  | 0 s |",
    ]


def test_the_picture_is_reproducible_and_needs_no_results() -> None:
    outcomes = [outcome(0.1, 0, (99, 90), (99, 98)), outcome(0.5, 0, (98, 92), (98, 97))]
    assert trade_off(outcomes) == trade_off(outcomes)
    nothing = Outcome(
        recipe="r",
        label="ibp",
        objective="ibp",
        dataset="other",
        eps="1/7",
        settings={},
        seed=0,
        model="m",
        problem="diverged",
    )
    assert trade_off([nothing]).startswith(b"<?xml")


def test_anchors_belong_to_a_data_set_and_a_radius() -> None:
    assert {anchor.method for anchor in anchors("mnist", "1/10")} >= {"mtl-ibp", "sabr", "ibp"}
    assert anchors("mnist", "0.1") == anchors("mnist", "1/10")
    assert anchors("mnist", "0.2") == anchors("mine.npz", "0.1") == []
    (best,) = [anchor for anchor in anchors("cifar10", "2/255") if anchor.certified == 64.41]
    assert (best.method, best.clean) == ("mtl-ibp", 78.82)
