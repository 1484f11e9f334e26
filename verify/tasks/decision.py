"""Deciding a property: proved case by case; or refuted by a counterexample that onnxruntime reproduces."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from enum import Enum, StrEnum
from fractions import Fraction
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from verify.bounds.activations import neuron_count
from verify.bounds.evaluation import lanes_at_a_time
from verify.bounds.linear_bounds import lower_bounds
from verify.bounds.maxima import with_relus
from verify.bounds.methods import ALPHA_CROWN, COMPLETE, FUNCTIONAL_PROOFS, searches, ways_of
from verify.bounds.neuron_bounds import crown_intervals
from verify.core.environment import require_ieee_arithmetic
from verify.core.intervals import Interval
from verify.core.rounding import Contract, down
from verify.errors import ModelProblem, Rejected
from verify.model.network import Network
from verify.proofs.certificate import Proof
from verify.proofs.input_splits import InputSplits, unproved
from verify.proofs.parts import Parts
from verify.proofs.properties import Case, cases, holds, largest_indices
from verify.proofs.reachability import (
    Exclusion,
    Row,
    bounded_constraints,
    constraint_functionals,
    unreachable,
    unreachable_over_trees,
)
from verify.proofs.split_trees import SplitProof
from verify.search import require_torch
from verify.tasks.vnnlib import Property

_LARGEST_BATCH = 64
"""Boxes that are bounded together."""

_FEW_INPUTS = 20
"""Up to so many inputs that differ within a box, it is split along them."""

_FEW_NEURONS = 50_000
"""Up to so many neurons; for larger networks a part costs more than many splits of neurons."""

_WAY = "crown"
"""What a search begins with, and what proves the parts of a box that is split along inputs."""


class Answer(StrEnum):
    """VNN-COMP's words. unsat: no input has outputs that fulfil the property, so the network is safe."""

    UNSAT = "unsat"
    SAT = "sat"
    UNKNOWN = "unknown"
    TIMEOUT = "timeout"


@dataclass(frozen=True)
class Witness:
    """A counterexample. x: the float32 input; y: what onnxruntime answers to it; point: the exact input that x stands
    for, inside the property's box and equal to x wherever that holds a float32 number. All flat."""

    x: NDArray[np.float32]
    y: NDArray[np.float32]
    point: list[Fraction]


@dataclass(frozen=True)
class Decision:
    """decided_by: the last way that was needed, or "attack". proofs: what proves each case."""

    answer: Answer
    decided_by: str | None = None
    witness: Witness | None = None
    proofs: tuple[Proof, ...] = ()


class Runs(Protocol):
    """What executes the deployed network."""

    def output(self, x: NDArray[np.float32]) -> NDArray[np.float32]: ...


Refute = Callable[[NDArray[np.float32]], bool]
"""Told an input, flat: whether it is a counterexample, so that no proof is needed."""


class Stage(Enum):
    """When a counterexample is looked for: before anything else, before a search for a proof, which takes long, or when
    no proof was found."""

    FIRST = 0
    BEFORE_SEARCH = 1
    LAST = 2


Attack = Callable[[Sequence[Case], Stage], Witness | None]
"""A confirmed counterexample, if one is found."""


def cases_for(network: Network, property: Property) -> list[Case]:
    """The property's cases; raises ModelProblem when it does not fit the network."""
    mentioned = largest_indices(property.formula)
    for what, stated, shape, highest, tensor in (
        ("input", property.inputs, property.shapes[0], mentioned[0], network.input),
        ("output", property.outputs, property.shapes[1], mentioned[1], network.output),
    ):
        size = int(np.prod(tensor.shape))
        if stated not in (None, size):
            raise ModelProblem(f"the property is about {stated} {what}s, but the model has {size}")
        if shape and len(shape) > 1 and _without_ones(shape) not in (_without_ones(tensor.shape), (size,)):
            raise ModelProblem(
                f"the property declares an {what} of shape {shape}, but that of the model is {tensor.shape}"
            )
        if highest >= size:
            raise ModelProblem(f"the property is about an {what} {highest}, but the model has {size}")
    return cases(property.formula, int(np.prod(network.input.shape)))


def _without_ones(shape: Sequence[int]) -> tuple[int, ...]:
    return tuple(size for size in shape if size != 1)


def confirmed(property: Property, case: Case, x: NDArray[np.float32], runtime: Runs) -> Witness | None:
    """The witness that the float32 input x is, if the deployed network's answer to it fulfils the property's formula.

    The formula is evaluated as a whole, over exact rationals.
    """
    point = case.point(x)
    if point is None:
        return None
    y = runtime.output(x)
    if not np.isfinite(y).all() or not holds(property.formula, point, [Fraction(float(value)) for value in y]):
        return None
    return Witness(x, y, point)


def decide(
    network: Network,
    property: Property,
    *,
    contract: Contract,
    method: str,
    attack: Attack | None = None,
    runtime: Runs | None = None,
    seconds: float = math.inf,
) -> Decision:
    """Look for a counterexample quickly, then for a proof, then thoroughly for a counterexample.

    runtime: judges the inputs at which a search for proofs fails. seconds: for all of it; a search for proofs stops at
    that. Raises ModelProblem when the property does not fit the network, BrokenArithmetic where this process cannot
    compute soundly, and Problem for an unknown method, or where it needs torch and there is none.
    """
    require_ieee_arithmetic()
    deadline = time.perf_counter() + seconds
    ways = [way for way in ways_of(method) if way in FUNCTIONAL_PROOFS]
    found = cases_for(network, property)
    if attack and (witness := attack(found, Stage.FIRST)):
        return Decision(Answer.SAT, "attack", witness)
    if (
        searches(method)
        and len(found) == 1
        and _all_bounded(found[0])
        and not _splits_inputs(network, found[0], method)
    ):
        ways.remove(_WAY)  # the search begins with it
    proofs: list[Proof] = []
    late = False
    for case, way in zip(found, proofs_of(network, found, contract, ways), strict=True):
        if way is not None:
            proofs.append(way)
            continue
        if searches(method) and not late:
            result = _searched(network, property, case, contract, method, deadline, attack, runtime)
            if isinstance(result, Witness):
                return Decision(Answer.SAT, "attack", result)
            if not isinstance(result, bool):
                proofs.append(result)
                continue
            late = result
        witness = attack(found, Stage.LAST) if attack else None
        if witness:
            return Decision(Answer.SAT, "attack", witness)
        return Decision(Answer.TIMEOUT if late else Answer.UNKNOWN)
    order = [*FUNCTIONAL_PROOFS, ALPHA_CROWN, COMPLETE]
    return Decision(Answer.UNSAT, max(map(_name, proofs), key=order.index, default=None), None, tuple(proofs))


def _name(proof: Proof) -> str:
    if isinstance(proof, str):
        return proof
    return COMPLETE if isinstance(proof, InputSplits) or proof.branches else ALPHA_CROWN


def _searched(
    network: Network,
    property: Property,
    case: Case,
    contract: Contract,
    method: str,
    deadline: float,
    attack: Attack | None,
    runtime: Runs | None,
) -> Proof | Witness | bool:
    """A proof that the case is out of reach, which counts once it is checked; or a counterexample; or else whether time
    was short."""
    if not _all_bounded(case):
        return False
    rows = bounded_constraints(case.alternatives)
    witnesses: list[Witness] = []

    def refute(x: NDArray[np.float32]) -> bool:
        if runtime and (witness := confirmed(property, case, np.clip(x, case.least, case.largest), runtime)):
            witnesses.append(witness)
        return bool(witnesses)

    def struck() -> bool:
        if attack and (witness := attack([case], Stage.BEFORE_SEARCH)):
            witnesses.append(witness)
        return bool(witnesses)

    if _splits_inputs(network, case, method):
        found: Proof | bool = not struck() and _over_inputs(network, case, rows, contract, deadline, refute)
    else:
        found = _over_neurons(network, case, rows, contract, method == COMPLETE, deadline, struck, refute)
    return witnesses[0] if witnesses else found


def _all_bounded(case: Case) -> bool:
    """Whether each alternative has a constraint that bounds of the outputs might exclude."""
    rows = bounded_constraints(case.alternatives)
    return {row.alternative for row in rows} == set(range(len(case.alternatives)))


def _splits_inputs(network: Network, case: Case, method: str) -> bool:
    """Whether the search splits inputs, rather than neurons: where few vary, unless bounds of each part take long.

    An input that is fixed to a number between two neighbours of float32, which are the ends of its interval, does not
    count.
    """
    above = np.nextafter(case.lower.astype(np.float32), np.float32(np.inf))
    few = int(np.count_nonzero(above < case.upper)) <= _FEW_INPUTS
    return method == COMPLETE and few and neuron_count(network.output) <= _FEW_NEURONS


def _over_inputs(
    network: Network, case: Case, rows: Sequence[Row], contract: Contract, deadline: float, refute: Refute
) -> InputSplits | bool:
    """A proof over parts of the case's box, checked; or else whether time was short."""
    require_torch()
    from verify.search.input_splitting import InputSplitting

    functionals, constants = constraint_functionals(network, rows)
    numbers = np.array([row.alternative for row in rows])
    ends = case.lower.astype(np.float32), case.upper.astype(np.float32)
    exclusion = Exclusion(network, case.alternatives, contract, _WAY)
    search = InputSplitting(network, ends, functionals, constants, numbers, exclusion, refute)
    if not search.run(deadline):
        return search.late
    box, proof = Interval(case.lower[np.newaxis], case.upper[np.newaxis]), search.proof(_WAY)
    return False if any(missing.size for missing in unproved(network, box, proof, exclusion)) else proof


def _over_neurons(
    network: Network,
    case: Case,
    rows: Sequence[Row],
    contract: Contract,
    branch: bool,
    deadline: float,
    struck: Callable[[], bool],
    refute: Refute,
) -> str | SplitProof | bool:
    """The same over signs of neurons; branch: split any. struck: whether an attack makes the search needless."""
    require_torch()
    from verify.search.branch_and_bound import search

    began = time.perf_counter()
    functionals, constants = constraint_functionals(network, rows)
    box = Interval(*(end.reshape(1, *network.input.shape) for end in (case.lower, case.upper)))
    with np.errstate(all="ignore"):
        intervals = crown_intervals(network, box, contract)
        (lower,) = lower_bounds(network.output, functionals[np.newaxis], intervals, contract)
    promise = down(lower + constants)
    if {row.alternative for row, least in zip(rows, promise, strict=True) if least > 0} == set(
        range(len(case.alternatives))
    ):
        return _WAY
    if struck():
        return False
    chosen = [
        max((index for index, row in enumerate(rows) if row.alternative == alternative), key=lambda k: promise[k])
        for alternative in range(len(case.alternatives))
    ]
    problem = with_relus(network)
    known = intervals if problem is network else None
    parts = Parts(problem, box, functionals, constants, contract, known)
    (outcome,) = search(
        problem,
        box,
        functionals[np.newaxis, chosen],
        constants[np.newaxis, chosen],
        contract,
        parts=[parts],
        rows=chosen,
        branch=branch,
        seconds=deadline - began,
        intervals=known,
        opening_s=time.perf_counter() - began,
        refute=lambda lane, point: refute(point.reshape(-1)),
    )
    if outcome.proof is None:
        return bool(outcome.timed_out)
    trees = tuple(replace(tree, functional=chosen[tree.functional]) for tree in outcome.proof.trees)
    proof = replace(outcome.proof, trees=trees)
    try:
        return proof if unreachable_over_trees(problem, box, case.alternatives, contract, proof, parts) else False
    except Rejected:
        return False


def proofs_of(network: Network, cases: Sequence[Case], contract: Contract, ways: Sequence[str]) -> Iterator[str | None]:
    """For each case, the first of the ways that proves it, or None."""
    batch = min(lanes_at_a_time(network), _LARGEST_BATCH)
    for start in range(0, len(cases), batch):
        part = cases[start : start + batch]
        decided: list[str | None] = [None] * len(part)
        for way in ways:
            waiting = [lane for lane, known in enumerate(decided) if known is None]
            if waiting:
                lower, upper = (np.stack([getattr(part[i], end) for i in waiting]) for end in ("lower", "upper"))
                alternatives = [part[i].alternatives for i in waiting]
                for i, done in zip(
                    waiting, unreachable(network, Interval(lower, upper), alternatives, contract, way), strict=True
                ):
                    decided[i] = way if done else None
        yield from decided
