"""Branch and bound against an exact oracle (mixed-integer programming), and on networks made to fool verifiers."""

from __future__ import annotations

from fractions import Fraction
from functools import partial

import numpy as np
import pytest
import torch
from scipy.optimize import Bounds, LinearConstraint, milp

from soundness import test_backdoors as backdoors
from support.onnx_models import ALL, network_of
from support.relu_networks import ReluNetwork
from verify.bounds.crown import margin_functionals
from verify.boxes import box_around
from verify.core.intervals import Interval
from verify.core.rounding import FLOAT32_ANY_ORDER, REAL, Array, Contract
from verify.model.network import Network
from verify.proofs.split_trees import split_bounds
from verify.search.branch_and_bound import Outcome, search
from verify.search.trees import Ending

NEAR_TIE = 1e-3
"""The oracle computes in floating point: it decides nothing closer to zero than this."""


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def least_margin(made: ReluNetwork, lower: Array, upper: Array, label: int) -> float:
    """The least of y[label] - y[j] over the box, for j other than the label: for each j a program in which a neuron
    with an open sign has a binary number b, and r = relu(z) is r >= 0, r >= z, r <= z - l (1 - b), r <= u b for bounds
    l and u of z."""
    sizes = [len(lower), *(len(bias) for bias in made.biases[:-1])]
    starts = np.cumsum([0, *sizes])
    reals = int(starts[-1])
    total = reals + int(sum(sizes[1:]))
    rows: list[tuple[Array, float, float]] = []
    ends = [(lower, upper)]
    for layer, (weight, bias) in enumerate(zip(made.weights[:-1], made.biases[:-1], strict=True)):
        centre, radius = (ends[-1][0] + ends[-1][1]) / 2, (ends[-1][1] - ends[-1][0]) / 2
        middle, spread = centre @ weight + bias, radius @ np.abs(weight)
        ends.append((np.maximum(middle - spread, 0), np.maximum(middle + spread, 0)))
        for neuron, (l, u) in enumerate(zip(middle - spread, middle + spread, strict=True)):
            row = np.zeros(total)
            output, switch = starts[layer + 1] + neuron, reals + starts[layer + 1] - sizes[0] + neuron
            row[starts[layer] : starts[layer + 1]], row[output] = -weight[:, neuron], 1.0
            if l >= 0:
                rows.append((row, bias[neuron], bias[neuron]))
            elif u > 0:
                rows.append((row.copy(), bias[neuron], np.inf))
                row[switch] = -l
                rows.append((row, -np.inf, bias[neuron] - l))
                row = np.zeros(total)
                row[output], row[switch] = 1.0, -u
                rows.append((row, -np.inf, 0.0))
    least, greatest = (np.concatenate([*(pair[end] for pair in ends), np.full(total - reals, end)]) for end in (0, 1))
    within = [LinearConstraint(*map(np.array, zip(*rows, strict=True)))] if rows else []
    found = []
    for other in set(range(len(made.biases[-1]))) - {label}:
        goal = np.zeros(total)
        goal[starts[-2] : reals] = made.weights[-1][:, label].astype(np.float64) - made.weights[-1][:, other]
        program = partial(
            milp, goal, integrality=np.arange(total) >= reals, bounds=Bounds(least, greatest), constraints=within
        )
        solved = program()
        if not solved.success:  # once in hundreds of networks, HiGHS makes a program of it that it cannot solve
            solved = program(options={"presolve": False})
        assert solved.success, solved.message
        found.append(solved.fun + float(made.biases[-1][label]) - float(made.biases[-1][other]))
    return min(found)


def outcome_of(network: Network, box: Interval, label: int, contract: Contract, seconds: float = 60) -> Outcome:
    functionals, constants = margin_functionals(network, np.array([label]))
    (outcome,) = search(network, box, functionals, constants, contract, branch=True, seconds=seconds)
    if outcome.proof:
        found = split_bounds(network, box, functionals[0], constants[0], contract, outcome.proof)
        assert (found > 0).all()
    return outcome


@pytest.mark.parametrize("seed", range(20))
def test_what_is_decided_is_what_the_exact_oracle_says(seed: int) -> None:
    """At radii that close in on the largest at which the answer is the same throughout."""
    rng = np.random.default_rng(seed)
    widths = [int(rng.integers(2, 4)), *(int(n) for n in rng.integers(3, 7, int(rng.integers(1, 4)))), 3]
    made = ReluNetwork.random(rng, widths, 0.0 if seed % 4 == 0 else 2.0)
    network = made.network()
    centre = rng.random((1, 1, widths[0])).astype(np.float32)
    label = int(made.run(centre[0], ALL)[0].argmax())
    low, high = Fraction(0), Fraction(1)
    for _ in range(5):
        eps = (low + high) / 2
        box = box_around(centre, eps, None)
        least = least_margin(made, box.lower.reshape(-1), box.upper.reshape(-1), label)
        outcome = outcome_of(network, box, label, FLOAT32_ANY_ORDER, seconds=60 if least > 0 else 0.1)
        assert outcome.ending is not Ending.PROVED or least > -NEAR_TIE
        assert outcome.ending is Ending.PROVED or least < NEAR_TIE
        low, high = (eps, high) if least > 0 else (low, eps)


@pytest.mark.parametrize(("name", "depth", "reverse"), backdoors.CASES)
def test_no_backdoor_is_certified(name: str, depth: int, reverse: bool) -> None:
    content = backdoors.backdoored(*backdoors.DETECTORS[name](), depth=depth, reverse=reverse)
    network = network_of(content)
    box = box_around(backdoors.IMAGE[np.newaxis], Fraction(1, 100), None)
    assert outcome_of(network, box, 0, REAL).ending is Ending.PROVED
    assert outcome_of(network, box, 0, FLOAT32_ANY_ORDER, seconds=0.2).ending is not Ending.PROVED
