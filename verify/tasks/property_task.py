"""Deciding a property as a task: from files to an answer, its counterexample or certificates, and its JSON form."""

from __future__ import annotations

import importlib.util
import json
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Context, Decimal, Inexact
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from verify.check import check
from verify.core.rounding import contract_named
from verify.errors import ModelProblem, Rejected
from verify.files import require_folder
from verify.model.network import Network, load
from verify.proofs.certificate import Certificate, Unreachable
from verify.proofs.certificate import write as write_certificate
from verify.tasks.decision import Answer, Decision, cases_for, decide
from verify.tasks.result import SCHEMA_VERSION, versions
from verify.tasks.runtime import Runtime
from verify.tasks.vnnlib import Property, read
from verify.tasks.witnesses import Attack, Witness
from verify.time_limit import OutOfTime, time_limit


@dataclass(frozen=True)
class PropertyResult:
    """What was asked and found. network, property: None if not even they could be read in time. certificates: files,
    one per case, if they were asked for and the answer is unsat."""

    model_path: str
    network: Network | None
    property_path: str
    property: Property | None
    contract: str
    method: str
    timeout_s: float | None
    decision: Decision
    time_s: float
    certificates: tuple[str, ...]


def answer_property(
    model_path: Path,
    property_path: Path,
    *,
    method: str,
    contract: str,
    timeout_s: float | None = None,
    certificates: Path | None = None,
    warn: Callable[[str], None],
) -> PropertyResult:
    """Decide a VNN-LIB property of a model. timeout_s limits all of it, reading the files included; certificates is a
    folder for one certificate per case of a property that holds, each checked before it is written.

    warn: is told what a user should know besides. Raises Problem, and ModelProblem for files that are not supported.
    """
    require_folder(certificates)
    began = time.perf_counter()
    network: Network | None = None
    property: Property | None = None
    files: tuple[str, ...] = ()
    try:
        with time_limit(timeout_s):
            property = read(property_path)
            network = load(model_path)
            attack, runtime = _attack(network, property, model_path, warn)
            decision = decide(
                network,
                property,
                contract=contract_named(contract),
                method=method,
                attack=attack,
                runtime=runtime,
                seconds=math.inf if timeout_s is None else timeout_s - (time.perf_counter() - began),
            )
            if decision.answer is Answer.UNSAT and not decision.proofs:
                warn("no input fulfils the property's own constraints, whatever the network answers")
            if decision.answer is Answer.UNSAT and certificates:
                found = _certificates(network, property, model_path, contract, decision)
                if found is None:
                    decision = Decision(Answer.UNKNOWN)
                else:
                    files = _written(found, certificates, property_path)
    except OutOfTime:
        decision = Decision(Answer.TIMEOUT)
    time_s = time.perf_counter() - began
    paths = str(model_path), str(property_path)
    return PropertyResult(paths[0], network, paths[1], property, contract, method, timeout_s, decision, time_s, files)


def _attack(
    network: Network, property: Property, path: Path, warn: Callable[[str], None]
) -> tuple[Attack | None, Runtime | None]:
    """The search for counterexamples, and their judge; None, with a warning, where something that they need is
    missing."""
    for name in ("torch", "onnxruntime"):
        if not importlib.util.find_spec(name):
            warn(f"no counterexamples are searched: {name} is not installed")
            return None, None
    from verify.tasks.attack import witness_search

    try:
        runtime = Runtime.of(path, network)
        return witness_search(network, property, runtime), runtime
    except ModelProblem as problem:
        warn(f"no counterexamples are searched: {problem}")
        return None, None


def _certificates(
    network: Network, property: Property, model_path: Path, contract: str, decision: Decision
) -> list[Certificate] | None:
    """One for each case; None in the rare case that the checker, which computes one box at a time and so rounds
    differently, does not confirm one."""
    found = []
    for case, way in zip(cases_for(network, property), decision.proofs, strict=True):
        lower, upper = (end.reshape(network.input.shape).astype(np.float32) for end in (case.lower, case.upper))
        claim = Unreachable(tuple(case.alternatives))
        certificate = Certificate(network.sha256, model_path.name, contract, claim, lower, upper, way)
        try:
            check(certificate, network)
        except Rejected:
            return None
        found.append(certificate)
    return found


def _written(found: list[Certificate], folder: Path, property_path: Path) -> tuple[str, ...]:
    folder.mkdir(parents=True, exist_ok=True)
    stem = property_path.name.removesuffix(".gz").removesuffix(".vnnlib")
    files = []
    for number, certificate in enumerate(found):
        path = folder / f"{stem}-{number:05}.json"
        write_certificate(path, certificate)
        files.append(str(path))
    return tuple(files)


def verdict_text(result: PropertyResult) -> str:
    """VNN-COMP's form: the answer on the first line, and below it the counterexample, if there is one.

    For VNN-LIB 1.0 that is `((X_0 value) ... (Y_0 value) ...)`; for 2.0 each tensor's declaration followed by its
    elements, a line each.
    """
    witness = result.decision.witness
    lines = [result.decision.answer.value]
    if witness and result.property:
        tensors = (witness.point, [Fraction(float(value)) for value in witness.y])
        if result.property.tensors:
            for declaration, values in zip(result.property.tensors, tensors, strict=True):
                lines += [declaration.replace("[]", f"[{len(values)}]"), *map(decimal, values)]
        else:
            pairs = [
                f"({name}_{index} {decimal(value)})"
                for name, values in zip("XY", tensors, strict=True)
                for index, value in enumerate(values)
            ]
            lines.append("(" + "\n".join(pairs) + ")")
    return "\n".join(lines) + "\n"


def decimal(value: Fraction) -> str:
    """All digits of a number, such as a float32 one, that has finitely many; else the first 60."""
    for digits in (60, 5000):
        context = Context(prec=digits, Emax=10**6, Emin=-(10**6))
        quotient = context.divide(Decimal(value.numerator), Decimal(value.denominator))
        if not context.flags[Inexact]:
            return format(quotient, "f")
    return format(Context(prec=60).divide(Decimal(value.numerator), Decimal(value.denominator)), "f")


def result_json(result: PropertyResult) -> bytes:
    """The result file of a property (schema version 1)."""
    decision, network, property = result.decision, result.network, result.property
    content = {
        "schema_version": SCHEMA_VERSION,
        "model": {"path": result.model_path, "sha256": network.sha256 if network else None},
        "property": {"path": result.property_path, "sha256": property.sha256 if property else None},
        "contract": result.contract,
        "method": result.method,
        "timeout_s": result.timeout_s,
        "verdict": decision.answer.value,
        "decided_by": decision.decided_by,
        "counterexample": _witness_json(decision.witness) if decision.witness else None,
        "certificates": list(result.certificates),
        "time_s": result.time_s,
        "versions": versions(),
    }
    return (json.dumps(content, indent=1, allow_nan=False) + "\n").encode()


def _witness_json(witness: Witness) -> dict[str, Any]:
    """x: the float32 input, as its shortest decimals; point: what it stands for in the property's box, exactly."""
    return {
        "x": [float(value) for value in witness.x],
        "y": [float(value) for value in witness.y],
        "point": list(map(decimal, witness.point)),
    }
