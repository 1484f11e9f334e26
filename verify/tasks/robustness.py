"""Is a classifier's answer the same for every input in a box around each sample?"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from enum import StrEnum
from fractions import Fraction
from functools import partial
from typing import Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from verify.bounds.crown import margin_problem
from verify.bounds.evaluation import lanes_at_a_time, values
from verify.bounds.margins import Labels, classes
from verify.bounds.methods import ALPHA_CROWN, COMPLETE, PROOFS, searches, ways_of
from verify.boxes import InputRange, box_around
from verify.compiled.engine import CompiledEngine
from verify.core.environment import require_ieee_arithmetic
from verify.core.intervals import Interval
from verify.core.rounding import Array, Contract
from verify.errors import Rejected
from verify.model.network import Network
from verify.proofs.parts import of_each
from verify.proofs.split_trees import SplitProof, split_bounds
from verify.search import require_torch
from verify.tasks.samples import Samples, require_labels
from verify.time_limit import OutOfTime, can_interrupt, time_limit

_LARGEST_BATCH = 64
"""Samples that are looked at together: what one Ctrl-C can lose."""


class Status(StrEnum):
    """What is known of a sample."""

    VERIFIED = "verified"
    MISCLASSIFIED = "misclassified"
    COUNTEREXAMPLE = "counterexample"
    UNKNOWN = "unknown"
    TIMEOUT = "timeout"


@dataclass(frozen=True)
class Verdict:
    """What was found about one sample.

    index: in its data. prediction: of the network at the sample itself. margin_lower: lower bound of the least margin
    of the label over the box, NaN where none could be given. time_s: the sample's share of its batch's time.
    certificate: its file. proof: what a certificate says of it, where it is verified. counterexample: an input to which
    onnxruntime answers another class.
    """

    index: int
    label: int
    prediction: int
    status: Status
    decided_by: str | None
    margin_lower: float
    time_s: float
    certificate: str | None = None
    proof: str | SplitProof | None = None
    counterexample: NDArray[np.float32] | None = None


class MisclassificationSearch(Protocol):
    """Finds counterexamples."""

    def __call__(
        self, x: NDArray[np.float32], labels: Labels, box: Interval, *, quickly: bool = False
    ) -> Iterator[tuple[int, NDArray[np.float32]]]:
        """(samples, labels, boxes around them) -> as they are found, lanes and inputs in their boxes of another class.
        quickly: those that are found at once."""

    @property
    def quick_share(self) -> float:
        """What part of the work the quick search is, more than 0 and up to 1."""

    def confirmed(self, x: NDArray[np.float32], label: int) -> NDArray[np.float32] | None:
        """The input that x stands for, if the deployed network answers another class to it; inside every box around x
        that has ends which the network takes."""


def verify_classifier(
    network: Network,
    samples: Samples,
    *,
    eps: Fraction,
    input_range: InputRange | None,
    contract: Contract,
    method: str | None = "ibp",
    timeout_s: float = math.inf,
    attack: MisclassificationSearch | None = None,
    engine: CompiledEngine | None = None,
) -> Iterator[Verdict]:
    """Verdicts, sample by sample. method: None to prove nothing. attack: searches for counterexamples to what is not
    proved. engine: bounds each batch before the rigorous methods look at what it leaves open; only for the contract
    that it assumes.

    A sample is verified if and only if every margin of its label is proved positive over the whole box of radius eps
    within the input range, under the contract. timeout_s: for each sample, with its share of what is done about several
    at once; intervals are computed however long they take. It is kept by signals in the main thread, except on Windows,
    and elsewhere as well as single steps allow. Raises ModelProblem and DataProblem where model and samples do not fit,
    BrokenArithmetic where this process cannot compute soundly, and Problem where a method needs torch and there is
    none.
    """
    require_ieee_arithmetic()
    count = classes(network)
    require_labels(samples, count)
    proofs = [way for way in ways_of(method) if way in PROOFS]
    batch = min(lanes_at_a_time(network), _LARGEST_BATCH)
    for first in range(0, len(samples), batch):
        began = time.perf_counter()
        part = slice(first, first + batch)
        x, labels = samples.inputs[part], samples.labels[part]
        box = box_around(x, eps, input_range)
        decided_by: list[str | None] = [None] * len(x)
        if engine:
            predictions, margins = engine(x)
            margins = np.where(predictions == labels, margins, np.nan)
            decided_by = [engine.way if margin > 0 else None for margin in margins]
            open_lanes = np.flatnonzero((predictions == labels) & ~(margins > 0))
        else:
            predictions = values(network, x.astype(np.float64))[0].reshape(len(x), count).argmax(axis=1)
            margins, open_lanes = np.full(len(x), np.nan), np.arange(len(x))
        spent = np.full(len(x), (time.perf_counter() - began) / len(x))
        limit = timeout_s if len(proofs) > 1 or attack else math.inf
        bounded = _Batch(network, x, box, labels, contract, limit, predictions == labels, margins, decided_by, spent)
        for way in proofs:
            if way == proofs[0]:
                bounded.prove(way, open_lanes, math.inf)
            elif attack and way == proofs[-1]:  # a box that is refuted at once needs no CROWN; what comes next, time
                took = bounded.strike(partial(attack, quickly=True), bounded.left / 2)
                bounded.prove(way, bounded.open, bounded.left - min(bounded.left / 2, took / attack.quick_share))
            else:
                bounded.prove(way, bounded.open, bounded.left)
        if attack:
            bounded.strike(attack, bounded.left)
        found = bounded.found
        verdicts = []
        for lane, (label, prediction, margin) in enumerate(zip(labels, predictions, margins, strict=True)):
            status = Status.VERIFIED if margin > 0 else Status.UNKNOWN
            if lane in found:
                status = Status.COUNTEREXAMPLE
            elif status is Status.UNKNOWN and prediction != label:
                status = Status.MISCLASSIFIED
            elif status is Status.UNKNOWN and spent[lane] >= limit:
                status = Status.TIMEOUT
            verdict = Verdict(
                index=samples.start + first + lane,
                label=int(label),
                prediction=int(prediction),
                status=status,
                decided_by="attack" if lane in found else decided_by[lane],
                margin_lower=float(margin),
                time_s=float(spent[lane]),
                proof=engine.proof if engine and decided_by[lane] == engine.way else decided_by[lane],
                counterexample=found.get(lane),
            )
            verdicts.append(verdict)
        if searches(method):
            yield from _searched(network, box, verdicts, contract, method, timeout_s, attack)
        else:
            yield from verdicts


def _searched(
    network: Network,
    box: Interval,
    verdicts: Sequence[Verdict],
    contract: Contract,
    method: str | None,
    timeout_s: float,
    attack: MisclassificationSearch | None,
) -> Iterator[Verdict]:
    """The verdicts, those that are unknown searched for a proof, which counts once it is checked, or a counterexample
    on the way."""
    require_torch()
    from verify.search.branch_and_bound import search

    open_lanes = [lane for lane, verdict in enumerate(verdicts) if verdict.status is Status.UNKNOWN]
    if not open_lanes:
        yield from verdicts
        return
    part = Interval(*(end[open_lanes] for end in box))
    labels = np.array([verdicts[lane].label for lane in open_lanes], int)
    problem, functionals, constants = margin_problem(network, part, labels, contract)
    found: dict[int, NDArray[np.float32]] = {}

    def refute(lane: int, x: NDArray[np.float32]) -> bool:
        counterexample = attack.confirmed(x, int(labels[lane])) if attack else None
        if counterexample is not None:
            found[lane] = counterexample
        return lane in found

    parts = of_each(problem, part, functionals, constants, contract)
    outcomes = enumerate(
        search(
            problem,
            part,
            functionals,
            constants,
            contract,
            parts=parts,
            branch=method == COMPLETE,
            seconds=timeout_s - max(verdicts[lane].time_s for lane in open_lanes),
            refute=refute if attack else None,
            interrupts=math.isfinite(timeout_s) and can_interrupt(),
        )
    )
    for verdict in verdicts:
        if verdict.status is not Status.UNKNOWN:
            yield verdict
            continue
        lane, outcome = next(outcomes)
        began = time.perf_counter()
        spent = verdict.time_s + outcome.spent_s
        if outcome.proof:
            own = Interval(*(end[lane : lane + 1] for end in part))
            asked = problem, own, functionals[lane], constants[lane], contract
            try:
                with _limit(timeout_s - spent):
                    lower = split_bounds(*asked, outcome.proof, parts[lane])
                if (lower > 0).all():
                    verdict = replace(
                        verdict,
                        status=Status.VERIFIED,
                        decided_by=COMPLETE if outcome.branched else ALPHA_CROWN,
                        margin_lower=float(np.delete(lower, verdict.label).min()),
                        proof=outcome.proof,
                    )
            except Rejected:
                pass
            except OutOfTime:
                verdict = replace(verdict, status=Status.TIMEOUT)
        elif lane in found:
            verdict = replace(verdict, status=Status.COUNTEREXAMPLE, decided_by="attack", counterexample=found[lane])
        elif outcome.timed_out:
            verdict = replace(verdict, status=Status.TIMEOUT)
        parts[lane].forget()
        yield replace(verdict, time_s=spent + time.perf_counter() - began)


def _limit(seconds: float) -> AbstractContextManager[None]:
    """A time limit, if there is one and signals can keep it."""
    return time_limit(max(seconds, 0.0) if math.isfinite(seconds) and can_interrupt() else None)


Result = TypeVar("Result")
_Attack = Callable[[NDArray[np.float32], Labels, Interval], Iterator[tuple[int, NDArray[np.float32]]]]
"""A MisclassificationSearch of some effort."""


@dataclass(frozen=True)
class _Batch:
    """What is known of samples that are looked at together: margins, lower bounds of each lane's least margin;
    decided_by, the way that first proved one positive; spent, each lane's share of the time, which ends at the timeout;
    found, inputs of another class. promising: lanes that can be proved, as far as anybody knows."""

    network: Network
    x: NDArray[np.float32]
    box: Interval
    labels: Labels
    contract: Contract
    timeout_s: float
    promising: NDArray[np.bool_]
    margins: Array
    decided_by: list[str | None]
    spent: Array
    found: dict[int, NDArray[np.float32]] = field(default_factory=dict)

    @property
    def open(self) -> NDArray[np.intp]:
        """The lanes about which something is left to do, and time to do it."""
        return np.flatnonzero(self.promising & ~(self.margins > 0) & (self.spent < self.timeout_s))

    @property
    def left(self) -> float:
        """Seconds that the open lanes have together."""
        return float((self.timeout_s - self.spent[self.open]).sum())

    def prove(self, way: str, lanes: NDArray[np.intp], seconds: float) -> None:
        """Bounds of the lanes' margins, if they take no longer than that."""

        def bound() -> Array:
            around = Interval(*(end[lanes] for end in self.box))
            return PROOFS[way](self.network, around, self.labels[lanes], self.contract)

        bounds = self._within(seconds, lanes, bound)
        if bounds is not None:
            self.margins[lanes] = np.fmax(self.margins[lanes], bounds.min(axis=1))
            for lane in lanes[self.margins[lanes] > 0]:
                self.decided_by[lane] = way

    def strike(self, attack: _Attack, seconds: float) -> float:
        """Search the boxes of the open lanes for inputs of another class; what is found in time counts. Returns the
        seconds that it took."""
        lanes = self.open

        def search() -> None:
            around = Interval(*(end[lanes] for end in self.box))
            for lane, x in attack(self.x[lanes], self.labels[lanes], around):
                self.found[int(lanes[lane])] = x
                self.promising[lanes[lane]] = False

        began = time.perf_counter()
        self._within(seconds, lanes, search)
        return time.perf_counter() - began

    def _within(self, seconds: float, lanes: NDArray[np.intp], compute: Callable[[], Result]) -> Result | None:
        """What is computed about the lanes, whose time it takes; None where it takes longer, or there are none."""
        if not lanes.size:
            return None
        began = time.perf_counter()
        try:
            # No context manager of its own: a signal may strike while that is entered or left.
            with _limit(seconds):
                return compute()
        except OutOfTime:
            return None
        finally:
            self.spent[lanes] += (time.perf_counter() - began) / len(lanes)
