"""Deciding a property: proved case by case; or refuted by a counterexample that onnxruntime reproduces."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import partial

import numpy as np

from verify.bounds.evaluation import lanes_at_a_time
from verify.bounds.methods import ALPHA_CROWN, COMPLETE, FUNCTIONAL_PROOFS, searches, ways_of
from verify.core.environment import require_ieee_arithmetic
from verify.core.intervals import Interval
from verify.core.rounding import Contract
from verify.errors import ModelProblem
from verify.model.network import Network
from verify.proofs.input_splits import InputSplits
from verify.proofs.proof_fields import Proof
from verify.proofs.properties import Case, cases, largest_indices
from verify.proofs.reachability import unreachable
from verify.tasks.case_search import CaseSearch
from verify.tasks.vnnlib import Property
from verify.tasks.witnesses import Attack, Runs, Stage, Witness

_LARGEST_BATCH = 64
"""Boxes that are bounded together."""


class Answer(StrEnum):
    """VNN-COMP's words. unsat: no input has outputs that fulfil the property, so the network is safe."""

    UNSAT = "unsat"
    SAT = "sat"
    UNKNOWN = "unknown"
    TIMEOUT = "timeout"


@dataclass(frozen=True)
class Decision:
    """decided_by: the last way that was needed, or "attack". proofs: what proves each case."""

    answer: Answer
    decided_by: str | None = None
    witness: Witness | None = None
    proofs: tuple[Proof, ...] = ()


def cases_for(network: Network, property: Property) -> list[Case]:
    """The property's cases; raises ModelProblem when it does not fit the network."""
    network.require_floats("a property")
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
    search_about = partial(
        CaseSearch,
        network,
        property,
        contract=contract,
        method=method,
        deadline=deadline,
        attack=attack,
        runtime=runtime,
    )
    if searches(method) and len(found) == 1 and search_about(found[0]).begins_with_crown:
        ways.remove("crown")
    proofs: list[Proof] = []
    for case, way in zip(found, proofs_of(network, found, contract, ways), strict=True):
        proof: Proof | None = way
        late = False
        if proof is None and searches(method):
            search = search_about(case)
            proof, late = search.proof(), search.late
            if search.witness:
                return Decision(Answer.SAT, "attack", search.witness)
        if proof is None:
            if attack and (witness := attack(found, Stage.LAST)):
                return Decision(Answer.SAT, "attack", witness)
            return Decision(Answer.TIMEOUT if late else Answer.UNKNOWN)
        proofs.append(proof)
    order = [*FUNCTIONAL_PROOFS, ALPHA_CROWN, COMPLETE]
    return Decision(Answer.UNSAT, max(map(_name, proofs), key=order.index, default=None), None, tuple(proofs))


def _name(proof: Proof) -> str:
    if isinstance(proof, str):
        return proof
    return COMPLETE if isinstance(proof, InputSplits) or proof.branches else ALPHA_CROWN


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
