"""The search for a proof that a case of a property is out of reach."""

from __future__ import annotations

import time
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from verify.bounds.activations import neuron_count
from verify.bounds.linear_bounds import lower_bounds
from verify.bounds.maxima import with_relus
from verify.bounds.methods import COMPLETE
from verify.bounds.neuron_bounds import crown_intervals
from verify.core.intervals import Interval
from verify.core.rounding import Contract, down
from verify.errors import Rejected
from verify.model.network import Network
from verify.proofs.exclusion import Exclusion
from verify.proofs.input_splits import InputSplits, unproved
from verify.proofs.parts import Parts
from verify.proofs.proof_fields import Proof
from verify.proofs.properties import Case
from verify.proofs.reachability import bounded_constraints, constraint_functionals, unreachable_over_trees
from verify.proofs.split_trees import SplitProof
from verify.search import require_torch
from verify.tasks.vnnlib import Property
from verify.tasks.witnesses import Attack, Runs, Stage, Witness, confirmed

_FEW_INPUTS = 20
"""Up to so many inputs that differ within a box, it is split along them."""

_FEW_NEURONS = 50_000
"""Up to so many neurons; for larger networks a part costs more than many splits of neurons."""

_WAY = "crown"
"""What a search begins with, and what proves the parts of a box that is split along inputs."""


class CaseSearch:
    """About one case, until the deadline (of `time.perf_counter`).

    attack: looks for counterexamples before the search. runtime: judges the inputs at which the search fails. witness:
    a counterexample that ended it. late: whether it ended for want of time.
    """

    def __init__(
        self,
        network: Network,
        property: Property,
        case: Case,
        *,
        contract: Contract,
        method: str,
        deadline: float,
        attack: Attack | None,
        runtime: Runs | None,
    ) -> None:
        self._network, self._property, self._case = network, property, case
        self._contract, self._branches, self._deadline = contract, method == COMPLETE, deadline
        self._attack, self._runtime = attack, runtime
        self._rows = bounded_constraints(case.alternatives)
        self.witness: Witness | None = None
        self.late = False

    @property
    def begins_with_crown(self) -> bool:
        """Whether it proves by CROWN what can be proved so, so that this need not be tried before."""
        return self._is_possible and not self._splits_inputs

    def proof(self) -> Proof | None:
        """The proof, which is checked; None if there is a witness, or none was found."""
        if not self._is_possible:
            return None
        require_torch()
        return self._over_inputs() if self._splits_inputs else self._over_neurons()

    @property
    def _is_possible(self) -> bool:
        """Whether each alternative has a constraint that bounds of the outputs might exclude."""
        return {row.alternative for row in self._rows} == set(range(len(self._case.alternatives)))

    @property
    def _splits_inputs(self) -> bool:
        """Rather than neurons: where few inputs vary, unless bounds of each part take long.

        An input that is fixed to a number between two neighbours of float32, which are the ends of its interval, does
        not count.
        """
        above = np.nextafter(self._case.lower.astype(np.float32), np.float32(np.inf))
        few = int(np.count_nonzero(above < self._case.upper)) <= _FEW_INPUTS
        return self._branches and few and neuron_count(self._network.output) <= _FEW_NEURONS

    def _is_struck(self) -> bool:
        """Whether an attack makes the search needless."""
        if self._attack:
            self.witness = self._attack([self._case], Stage.BEFORE_SEARCH)
        return self.witness is not None

    def _refute(self, x: NDArray[np.float32]) -> bool:
        """Told an input, flat: whether it is a counterexample, so that no proof is needed."""
        if self._runtime and self.witness is None:
            x = np.clip(x, self._case.least, self._case.largest)
            self.witness = confirmed(self._property, self._case, x, self._runtime)
        return self.witness is not None

    def _over_inputs(self) -> InputSplits | None:
        """A proof over parts of the case's box."""
        from verify.search.input_splitting import InputSplitting

        if self._is_struck():
            return None
        network, case = self._network, self._case
        functionals, constants = constraint_functionals(network, self._rows)
        ends = case.lower.astype(np.float32), case.upper.astype(np.float32)
        exclusion = Exclusion(network, case.alternatives, self._contract, _WAY)
        search = InputSplitting(network, ends, functionals, constants, exclusion, self._refute)
        if not search.run(self._deadline):
            self.late = search.late
            return None
        box, proof = Interval(case.lower[np.newaxis], case.upper[np.newaxis]), search.proof(_WAY)
        return None if any(missing.size for missing in unproved(network, box, proof, exclusion)) else proof

    def _over_neurons(self) -> str | SplitProof | None:
        """The same by chosen slopes, and over signs of neurons."""
        from verify.search.branch_and_bound import search

        began = time.perf_counter()
        network, case, rows = self._network, self._case, self._rows
        functionals, constants = constraint_functionals(network, rows)
        box = Interval(*(end.reshape(1, *network.input.shape) for end in (case.lower, case.upper)))
        with np.errstate(all="ignore"):
            intervals = crown_intervals(network, box, self._contract)
            (lower,) = lower_bounds(network.output, functionals[np.newaxis], intervals, self._contract)
        promise = down(lower + constants)
        alternatives = range(len(case.alternatives))
        if {row.alternative for row, least in zip(rows, promise, strict=True) if least > 0} == set(alternatives):
            return _WAY
        if self._is_struck():
            return None
        chosen = [
            max((index for index, row in enumerate(rows) if row.alternative == alternative), key=lambda k: promise[k])
            for alternative in alternatives
        ]
        problem = with_relus(network)
        known = intervals if problem is network else None
        parts = Parts(problem, box, functionals, constants, self._contract, known)
        (outcome,) = search(
            problem,
            box,
            functionals[np.newaxis, chosen],
            constants[np.newaxis, chosen],
            self._contract,
            parts=[parts],
            rows=chosen,
            branch=self._branches,
            seconds=self._deadline - began,
            intervals=known,
            opening_s=time.perf_counter() - began,
            refute=lambda lane, point: self._refute(point.reshape(-1)),
        )
        if outcome.proof is None:
            self.late = outcome.timed_out
            return None
        trees = tuple(replace(tree, functional=chosen[tree.functional]) for tree in outcome.proof.trees)
        proof = replace(outcome.proof, trees=trees)
        try:
            proved = unreachable_over_trees(problem, box, case.alternatives, self._contract, proof, parts)
        except Rejected:
            return None
        return proof if proved else None
