"""Verdicts about the samples of a data set: time limits, and counterexamples that branch and bound comes by."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch

from support.onnx_models import ALL
from support.relu_networks import ReluNetwork
from verify.bounds.crown import crown_margins
from verify.bounds.margins import Labels
from verify.bounds.methods import PROOFS
from verify.boxes import box_around
from verify.core.intervals import Interval
from verify.core.rounding import FLOAT32_ANY_ORDER, REAL, Array, Contract
from verify.model.network import Network
from verify.search import opening
from verify.tasks import robustness
from verify.tasks.attack import misclassification_search
from verify.tasks.effort import Effort
from verify.tasks.robustness import Status, Verdict, _Batch, verify_classifier
from verify.tasks.samples import Samples
from verify.time_limit import can_interrupt

MADE = ReluNetwork.random(np.random.default_rng(11), [3, 8, 8, 3], 2.0)
X = np.random.default_rng(3).random((4, 1, 3)).astype(np.float32)
SAMPLES = Samples("made", None, 0, "", X, MADE.run(X[:, 0], ALL)[0].argmax(axis=1).astype(np.int64), None)
EPS = Fraction(4, 5)
BOX = box_around(X, EPS, None)

interrupted = pytest.mark.skipif(not can_interrupt(), reason="signals cannot interrupt here")


class Blind:
    """An attack that finds nothing, but knows a counterexample when it sees one."""

    def __call__(self, x: Any, labels: Labels, box: Interval, *, quickly: bool = False) -> Iterator[tuple[int, Any]]:
        return iter(())

    quick_share = 1e-6

    def confirmed(self, x: Any, label: int) -> Any:
        return x if MADE.run(x.reshape(1, 3), ALL)[0].argmax() != label else None


def verdicts(samples: Samples = SAMPLES, method: str = "complete", **options: Any) -> list[Verdict]:
    torch.set_num_threads(1)
    return list(
        verify_classifier(
            MADE.network(),
            samples,
            eps=EPS,
            input_range=None,
            contract=FLOAT32_ANY_ORDER,
            method=method,
            **options,
        )
    )


def test_branch_and_bound_comes_by_counterexamples() -> None:
    found = verdicts(attack=Blind(), timeout_s=60.0)
    assert {verdict.status for verdict in found} == {Status.VERIFIED, Status.COUNTEREXAMPLE}
    for verdict in (each for each in found if each.status is Status.COUNTEREXAMPLE):
        x = verdict.counterexample
        assert x is not None
        assert verdict.decided_by == "attack"
        assert ((BOX.lower[verdict.index] <= x) & (x <= BOX.upper[verdict.index])).all()
        assert MADE.run(x.reshape(1, 3), ALL)[0].argmax() != verdict.label


class Deployed:
    def output(self, x: Any) -> Any:
        return MADE.run(x.reshape(1, 3), ALL)[0].reshape(-1)


def test_counterexamples_belong_to_their_samples() -> None:
    """The first sample is misclassified, so that nobody looks at its box."""
    labels = SAMPLES.labels.copy()
    labels[0] = (labels[0] + 1) % 3
    attack = misclassification_search(MADE.network(), Deployed(), Effort())
    found = verdicts(samples=replace(SAMPLES, labels=labels), attack=attack, timeout_s=60.0)
    assert found[0].status is Status.MISCLASSIFIED
    refuted = [verdict for verdict in found if verdict.status is Status.COUNTEREXAMPLE]
    assert len(refuted) > 1
    for verdict in refuted:
        x = verdict.counterexample
        assert x is not None
        assert ((BOX.lower[verdict.index] <= x) & (x <= BOX.upper[verdict.index])).all()
        assert MADE.run(x.reshape(1, 3), ALL)[0].argmax() != verdict.label


def test_an_attack_works_whatever_an_interruption_left_behind() -> None:
    with torch.no_grad():
        found = dict(misclassification_search(MADE.network(), Deployed(), Effort())(X, SAMPLES.labels, BOX))
    assert found


def forever(*arguments: Any, **options: Any) -> Any:
    began = time.monotonic()
    while time.monotonic() < began + 60:
        pass
    pytest.fail("nothing interrupted it")


@interrupted
@pytest.mark.parametrize("method", ["crown", "complete"])
def test_a_way_that_takes_too_long_is_interrupted(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(PROOFS, "crown", forever)
    found = verdicts(method=method, timeout_s=0.05)
    assert {verdict.status for verdict in found} == {Status.TIMEOUT}
    assert all(verdict.decided_by is None and verdict.time_s >= 0.05 for verdict in found)


def test_intervals_take_as_long_as_they_take() -> None:
    """Whoever asks for nothing else gets no more by waiting."""
    assert Status.TIMEOUT not in {verdict.status for verdict in verdicts(method="ibp", timeout_s=1e-9)}


@interrupted
def test_an_attack_that_takes_too_long_is_interrupted() -> None:
    class Endless(Blind):
        __call__ = forever

    assert {verdict.status for verdict in verdicts(attack=Endless(), timeout_s=0.5)} == {Status.TIMEOUT}


class Finds(Blind):
    """An attack that finds what `Blind` would recognise in some boxes: in lanes of the batch, if they are wanted."""

    def __init__(self, *, quick: bool) -> None:
        self.quick = quick
        corners = np.random.default_rng(0).random((4000, *X.shape)) < 0.5
        points = np.where(corners, *BOX).astype(np.float32)
        classes = MADE.run(points.reshape(-1, 3), ALL)[0].argmax(axis=1).reshape(len(points), -1)
        wrong = classes != SAMPLES.labels
        lanes = np.flatnonzero(wrong.any(axis=0))
        self.known = {X[lane].tobytes(): points[wrong[:, lane].argmax(), lane] for lane in lanes}

    def __call__(self, x: Any, labels: Labels, box: Interval, *, quickly: bool = False) -> Iterator[tuple[int, Any]]:
        for lane, each in enumerate(x):
            if quickly is self.quick and each.tobytes() in self.known:
                yield lane, self.known[each.tobytes()]


def test_boxes_that_are_refuted_at_once_are_not_bounded_by_crown(monkeypatch: pytest.MonkeyPatch) -> None:
    attack = Finds(quick=True)
    seen = []

    def crown(network: Network, box: Interval, labels: Labels, contract: Contract) -> Array:
        seen.append(len(labels))
        return crown_margins(network, box, labels, contract)

    monkeypatch.setitem(PROOFS, "crown", crown)
    refuted = [each for each in verdicts(attack=attack) if each.status is Status.COUNTEREXAMPLE]
    assert len(refuted) >= len(attack.known) > 0
    assert sum(seen) <= len(X) - len(attack.known)


@interrupted
@pytest.mark.parametrize("quick", [False, True])
def test_whatever_bounds_take_an_attack_has_its_time(quick: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(PROOFS, "crown", forever)
    attack = Finds(quick=quick)
    found = verdicts(attack=attack, timeout_s=0.5)
    assert sum(each.status is Status.COUNTEREXAMPLE for each in found) >= len(attack.known) > 0


@interrupted
def test_what_an_attack_found_before_its_time_was_up_counts() -> None:
    class Stuck(Finds):
        def __call__(self, *arguments: Any, **options: Any) -> Iterator[tuple[int, Any]]:
            yield from super().__call__(*arguments, **options)
            forever()

    attack = Stuck(quick=False)
    found = verdicts(attack=attack, timeout_s=0.5)
    assert sum(each.status is Status.COUNTEREXAMPLE for each in found) == len(attack.known) > 0


@interrupted
@pytest.mark.parametrize("microseconds", [1, 5, 10, 20, 30])
def test_a_limit_that_strikes_on_the_way_into_a_step_ends_it(microseconds: int) -> None:
    lanes, spent = np.arange(2), np.zeros(2)
    batch = _Batch(MADE.network(), X, BOX, SAMPLES.labels, REAL, 1.0, spent > 1, spent, [], spent)
    for _ in range(100):
        assert batch._within(microseconds * 1e-6, lanes, lambda: 1) in (None, 1)


@interrupted
def test_a_limit_that_strikes_on_the_way_out_of_a_step_ends_it() -> None:
    """Nothing looks for signals within a product, nor where its value is returned."""
    lanes, spent, matrix = np.arange(2), np.zeros(2), np.ones((1000, 1000))
    batch = _Batch(MADE.network(), X, BOX, SAMPLES.labels, REAL, 1.0, spent > 1, spent, [], spent)
    for _ in range(5):
        found = batch._within(1e-3, lanes, lambda: matrix @ matrix)
        assert found is None or found.shape == matrix.shape


@interrupted
def test_bounds_inside_the_search_are_interrupted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(opening, "crown_intervals", forever)
    assert {verdict.status for verdict in verdicts(timeout_s=0.5)} == {Status.TIMEOUT}


@interrupted
def test_a_proof_that_is_not_wholly_checked_in_time_proves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(robustness, "split_bounds", forever)
    first, *_ = verdicts(attack=Blind(), timeout_s=2.0)
    assert (first.status, first.decided_by, first.proof) == (Status.TIMEOUT, None, None)
