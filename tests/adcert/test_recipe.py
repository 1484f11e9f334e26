"""Recipes: what ships, overrides, round trips, and one sentence for every mistake."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from adcert import recipe as recipes
from adcert.objectives import OBJECTIVES
from adcert.problems import RecipeProblem
from adcert.recipe import Radius, Recipe


def test_the_recipes_that_ship() -> None:
    assert recipes.names() == [
        "cifar10-2",
        "cifar10-8",
        "mnist-0.1",
        "mnist-0.3",
        "mnist-quick",
        "tinyimagenet-1",
    ]


@pytest.mark.parametrize("name", recipes.names())
def test_each_is_ad_cert_with_a_teacher_and_both_sides_of_the_objective(name: str) -> None:
    recipe = recipes.load(name)
    assert recipe.objective == "ad-cert"
    assert 0 < recipe.alpha < 1
    assert recipe.teacher is not None
    assert recipe.teacher.objective == "pgd"
    assert recipe.teacher.init == "kaiming"
    assert recipe.teacher.eps == recipe.eps
    assert all(milestone < recipe.epochs for milestone in recipe.lr_milestones)
    assert all(milestone < recipe.teacher.epochs for milestone in recipe.teacher.lr_milestones)


def test_published_settings() -> None:
    recipe = recipes.load("cifar10-2")
    assert recipe.eps.value == 2 / 255
    assert (recipe.epochs, recipe.lr_milestones, recipe.ramp_start, recipe.ramp_end) == (160, (120, 140), 1, 81)
    assert (recipe.alpha, recipe.robust_weight, recipe.attack_range_scale, recipe.l1) == (0.01, 0.9, 2.0, 3e-6)
    assert recipes.load("mnist-0.1").train_eps == pytest.approx(0.2)


def published(name: str, objective: str) -> Recipe:
    return recipes.load(name, [f"objective={objective}"])


def test_each_objective_takes_its_own_published_settings() -> None:
    sabr = published("cifar10-2", "sabr")
    assert (sabr.small_box, sabr.relu_shrink, sabr.attack_steps, sabr.l1, sabr.swa_start) == (0.1, 0.8, 5, 1e-6, 0)
    assert sabr.train_eps == pytest.approx(3 / 255)
    assert published("cifar10-8", "cc-ibp").epochs == 260
    assert published("mnist-0.3", "ibp").robust_weight == 0.7


@pytest.mark.parametrize("objective", ["pgd", "trades", "standard"])
@pytest.mark.parametrize("name", recipes.names())
def test_what_bounds_nothing_trains_without_what_is_there_for_bounds(name: str, objective: str) -> None:
    recipe = published(name, objective)
    assert (recipe.init, recipe.regularizer, recipe.robust_weight) == ("kaiming", 0, 1)


def test_a_variant_takes_the_settings_of_its_original_and_then_its_own() -> None:
    taps, staps = published("mnist-0.3", "taps"), published("mnist-0.3", "staps")
    assert (taps.train_eps, taps.attacked_layers) == (pytest.approx(0.4), 3)
    assert (staps.train_eps, staps.attacked_layers, staps.small_box) == (0.3, 2, 0.6)
    assert (staps.attack_steps, staps.l1) == (10, 1e-5)
    assert staps.gradient_scale == taps.gradient_scale == 4
    assert published("mnist-0.1", "ad-cert-rslad").alpha == published("mnist-0.1", "ad-cert").alpha == 0.02


def test_overrides_have_the_last_word_and_the_teacher_keeps_its_table() -> None:
    recipe = recipes.load("cifar10-2", ["attack_steps=3", "l1=0.5", "epochs=90", "swa_start=0"])
    assert recipe.teacher is not None
    assert (recipe.attack_steps, recipe.l1, recipe.epochs) == (3, 0.5, 90)
    assert (recipe.teacher.attack_steps, recipe.teacher.l1, recipe.teacher.epochs) == (8, 2e-5, 90)
    assert recipe.teacher.attack_range_scale == 2.0


@pytest.mark.parametrize("objective", ["cc-dist", "ad-cert-natural"])
@pytest.mark.parametrize("name", recipes.names())
def test_students_of_different_objectives_share_their_teacher(name: str, objective: str) -> None:
    assert published(name, objective).teacher == recipes.load(name).teacher


@pytest.mark.parametrize("objective", sorted(OBJECTIVES))
@pytest.mark.parametrize("name", recipes.names())
def test_every_recipe_is_complete_for_every_objective(name: str, objective: str) -> None:
    recipe = published(name, objective)
    assert recipes.parse(recipes.to_toml(recipe), "text") == recipe


def test_a_recipe_upon_a_base(tmp_path: Path) -> None:
    (tmp_path / "first.toml").write_text(
        'base = "mnist-0.1"\nmodel = "cnn-small"\n[objectives.ad-cert]\nalpha = 0.5\n[teacher]\nepochs = 30'
    )
    (tmp_path / "second.toml").write_text('base = "first.toml"\neps = 0.2')
    recipe = recipes.load(str(tmp_path / "second.toml"))
    assert (recipe.model, recipe.eps.text, recipe.alpha, recipe.attack_steps) == ("cnn-small", "0.2", 0.5, 10)
    assert recipe.teacher is not None
    assert (recipe.teacher.epochs, recipe.teacher.attack_steps) == (30, 10)


@pytest.mark.parametrize("name", recipes.names())
def test_what_is_written_is_read_back(name: str) -> None:
    recipe = recipes.load(name)
    assert recipes.parse(recipes.to_toml(recipe), "text") == recipe


def test_a_teacher_that_is_as_the_student_is_read_back() -> None:
    recipe = recipes.load("mnist-0.1", ["teacher.init=ibp", "teacher.regularizer=0.5", "teacher.alpha=0.02"])
    assert recipe.teacher is not None
    assert recipe.teacher.init == "ibp"
    assert recipes.parse(recipes.to_toml(recipe), "text") == recipe


@pytest.mark.parametrize(
    ("override", "changed"),
    [
        ("model=cnn-7", {"model": "cnn-7"}),
        ('model="cnn-7"', {"model": "cnn-7"}),
        ("eps=2/255", {"eps": Radius("2/255")}),
        ("eps=0.2", {"eps": Radius("0.2")}),
        ("alpha=1", {"alpha": 1.0}),
        ("alpha = 0.25", {"alpha": 0.25}),
        ("lr_milestones=[]", {"lr_milestones": ()}),
        ("tf32=true", {"tf32": True}),
    ],
)
def test_overrides(override: str, changed: dict[str, object]) -> None:
    base = recipes.load("mnist-quick")
    student = recipes.load("mnist-quick", [override])
    assert replace(student, teacher=None) == replace(base, teacher=None, **changed)  # type: ignore[arg-type]


def test_the_teacher_inherits_what_its_table_does_not_say() -> None:
    recipe = recipes.load("mnist-quick", ["seed=5", "eps=0.2", "teacher.epochs=1", "teacher.model=cnn-7"])
    assert recipe.teacher is not None
    assert (recipe.teacher.seed, recipe.teacher.eps.text, recipe.teacher.model) == (5, "0.2", "cnn-7")
    assert (recipe.epochs, recipe.teacher.epochs) == (recipes.load("mnist-quick").epochs, 1)


def test_students_that_differ_in_their_objective_share_a_teacher() -> None:
    def teacher(*overrides: str) -> Recipe:
        recipe = recipes.load("mnist-quick", overrides).teacher
        assert recipe is not None
        return recipe

    assert recipes.key(teacher("alpha=0.1", "robust_weight=1", "regularizer=0", "init=kaiming")) == recipes.key(
        teacher()
    )
    assert recipes.key(teacher("seed=1")) != recipes.key(teacher())


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("epoch=3", "there is no setting epoch; there are alpha, attack_range_scale,"),
        ("teacher.epoch=3", "there is no setting teacher.epoch; there are teacher.alpha,"),
        ("epochs=3.5", "epochs is a whole number, not 3.5"),
        ("epochs=true", "epochs is a whole number, not True"),
        ("epochs=0", "epochs = 0 is outside of 1 to 1e+06"),
        ("alpha=1.1", "alpha = 1.1 is outside of 0 to 1"),
        ("alpha=nan", "alpha = nan is outside of 0 to 1"),
        ("learning_rate=fast", "learning_rate is a number, not 'fast'"),
        ("tf32=1", "tf32 is true or false, not 1"),
        ("lr_milestones=3", "lr_milestones is a list of epochs such as"),
        ("lr_milestones=[1.5]", "lr_milestones is a list of epochs such as"),
        ("eps=1/0", "eps is a number or fraction from 0 to 1 such as 0.1 or 2/255, not '1/0'"),
        ("eps=2", "eps is a number or fraction from 0 to 1"),
        ("eps=small", "eps is a number or fraction from 0 to 1"),
        ("model=resnet", "model = 'resnet' does not exist; there are cnn-3, cnn-5, cnn-7,"),
        ("objective=fgsm", "objective = 'fgsm' does not exist; there are ad-cert, ad-cert-attacked-teacher,"),
        ("epochs", "--set 'epochs' does not have the form key=value"),
        ("=3", "--set '=3' does not have the form key=value"),
        ("epochs.teacher=3", "epochs is a whole number, not {'teacher': 3}"),
        ("teacher=3", "teacher is a table of settings"),
        ("teacher.objective=ad-cert", "teacher.objective = 'ad-cert' would itself need a teacher"),
        ("teacher.init=teacher", "teacher.init = 'teacher' needs an objective with a teacher"),
        ("dataset=nothing", "dataset = 'nothing' does not exist; there are cifar10, fashion-mnist, mnist, FILE.npz,"),
        ("swa_start=8", "swa_start = 8 lies after the last of 8 epochs"),
        ("optimizer=lion", "optimizer = 'lion' does not exist; there are adam, adamw, radam, sgd"),
        ("objectives.ad-cert=3", "there is no setting objectives;"),
        ("ramp_end=9", "ramp_end = 9 lies after the last of 8 epochs: the radius would never be the full one"),
        ("teacher.ramp_end=2", "teacher.ramp_end = 2 lies after the last of 1 epochs"),
        ("ramp_start=100", "ramp_start = 100 lies after ramp_end = 1"),
    ],
)
def test_mistakes_in_overrides(override: str, sentence: str) -> None:
    with pytest.raises(RecipeProblem) as caught:
        recipes.load("mnist-quick", [override])
    assert sentence in str(caught.value)
    assert caught.value.exit_code == 2
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("dataset = ", "is not valid TOML"),
        ('dataset = "mnist"', "the recipe lacks batch_size, epochs, eps, learning_rate, model, objective, ramp_end"),
        (
            'dataset="mnist"\nmodel="cnn-7"\nobjective="ad-cert"\neps=0.1\nepochs=1\nbatch_size=8\nramp_end=1\nlearning_rate=1',
            "the objective ad-cert needs a [teacher] table",
        ),
        ("objectives = 3", "objectives holds a table of settings for each objective"),
        ("[objectives.fgsm]", "there is no objective 'fgsm'; there are ad-cert,"),
        ('base="mnist-0.1"\n[objectives.sabr]\nbox = 1', "there is no setting objectives.sabr.box"),
        ("base = 3", "the base of the recipe"),
        ('base = "mine.toml"', "is its own base"),
        ('base = "nothing"', "there is no recipe 'nothing'"),
    ],
)
def test_mistakes_in_files(text: str, sentence: str, tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text(text)
    with pytest.raises(RecipeProblem) as caught:
        recipes.load(str(file))
    assert sentence in str(caught.value)


def test_a_recipe_that_does_not_exist() -> None:
    with pytest.raises(RecipeProblem, match=r"there is no recipe .mnist.; there are cifar10-2, .* and any TOML file"):
        recipes.load("mnist")
    with pytest.raises(RecipeProblem, match=r"cannot read the recipe missing\.toml"):
        recipes.load("missing.toml")
