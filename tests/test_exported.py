"""What ships in `exported/` is what its cards say."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from verify.model.network import load
from verify.tasks.card import card
from verify.tasks.result import Summary
from verify.tasks.robustness import Verdict
from verify.tasks.task import answer, question_about

FOLDER = Path(__file__).parent.parent / "exported"
MODELS = sorted(FOLDER.glob("*.onnx"))


def test_a_student_and_its_teacher_ship() -> None:
    assert {load(model).metadata["adcert.objective"] for model in MODELS} == {"ad-cert", "pgd"}


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.stem)
def test_the_card_is_what_verification_finds(model: Path) -> None:
    network, question = question_about(
        str(model), data=None, eps=None, start=0, count=None, method="ibp", contract="float32-any-order"
    )
    verdicts: list[Verdict] = []
    answer(network, question, verdicts)
    expected = card(question, Summary.of(verdicts), network.metadata)
    shipped = model.with_suffix(".md").read_text()
    versions = "Verified with "
    assert shipped.split(versions)[0] == expected.split(versions)[0]


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.stem)
def test_nothing_of_the_machine_it_was_made_on_is_inside(model: Path) -> None:
    content = model.read_bytes()
    folder = str(Path(__file__).parents[1]).encode()
    assert not any(trace in content for trace in (folder, b"/home/", b"/root/", b"/tmp/", b"/Users/", b".py"))


@pytest.mark.parametrize("page", ["README.md", "docs/results.md"])
@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.stem)
def test_the_tables_of_results_repeat_the_card(model: Path, page: str) -> None:
    card = model.with_suffix(".md").read_text()
    clean, certified = re.findall(r"^\| (?:clean|certified) accuracy \| ([\d.]+ %)", card, re.MULTILINE)
    rows = re.findall(rf"^\| \[{re.escape(model.stem)}\].*$", (FOLDER.parent / page).read_text(), re.MULTILINE)
    assert len(rows) == 1
    assert f"| {clean} | {certified} in " in rows[0]
