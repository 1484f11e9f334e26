"""Margins and other functionals of the output by linear bounds: over interval bounds of the neurons, then over linear
bounds of those, too."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from verify.bounds.evaluation import bounds
from verify.bounds.linear_bounds import lower_bounds
from verify.bounds.margins import Labels, classes, logits_of, of_the_answer
from verify.bounds.maxima import with_relus
from verify.bounds.neuron_bounds import crown_intervals
from verify.bounds.quadratics import Axes, Curvature
from verify.core.intervals import Interval
from verify.core.primitives import Tensor
from verify.core.rounding import Array, Contract
from verify.model.network import Network


def crown_margins(network: Network, box: Interval, labels: Labels, contract: Contract, *, refine: bool = True) -> Array:
    """Lower bounds of the margins, as `margin_bounds` gives them.

    refine: bound the neurons before each activation by linear bounds as well, where intervals leave it open which
    piece applies; tighter, and many times the work.
    """
    functionals, _ = margin_functionals(network, labels)
    target = logits_of(network)
    with np.errstate(all="ignore"):
        curvatures: dict[Tensor, Axes | Curvature] = {}
        before = replace(network, outputs=(target,))
        intervals = crown_intervals(before, box, contract, refine=refine, every_end=False, curvatures=curvatures)
        lower = lower_bounds(target, functionals, intervals, contract, curvatures=curvatures)
    return of_the_answer(lower, network, labels, intervals[target], contract)


def crown_bounds(
    network: Network, box: Interval, functionals: Array, contract: Contract, *, refine: bool = True
) -> Array:
    """For each lane and functional of the output (lanes x functionals x the output's shape), a lower bound over the
    box; NaN where nothing can be said. refine: as in `crown_margins`."""
    with np.errstate(all="ignore"):
        curvatures: dict[Tensor, Axes | Curvature] = {}
        intervals = crown_intervals(network, box, contract, refine=refine, curvatures=curvatures)
        return lower_bounds(network.output, functionals, intervals, contract, curvatures=curvatures)


def margin_functionals(network: Network, labels: Labels) -> tuple[Array, Array]:
    """The functionals y[label] - y[j] of the logits y (`margins.logits_of`), lanes x classes x their shape; and
    constants to add, lanes x classes: 1 for the label itself, else 0, so that the label wins if all are positive."""
    count = classes(network)
    own = np.eye(count)[labels]
    rows = own[:, np.newaxis] - np.eye(count)
    return rows.reshape(*rows.shape[:2], *logits_of(network).shape), own


def margin_problem(network: Network, box: Interval, labels: Labels, contract: Contract) -> tuple[Network, Array, Array]:
    """What splits prove: the network as far as its logits, in ReLUs (`verify.bounds.maxima`), functionals of these, and
    constants to add: the network answers the label if all are positive. The constants make room for what a softmax
    behind the logits needs."""
    functionals, constants = margin_functionals(network, labels)
    target = logits_of(network)
    if target is network.output:
        return with_relus(network), functionals, constants
    problem = with_relus(replace(network, outputs=(target,)))
    (logits,) = bounds(problem, box, contract)
    return problem, functionals, of_the_answer(np.zeros_like(constants), network, labels, logits, contract)
