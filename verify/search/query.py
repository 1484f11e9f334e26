"""What a search over splits of neurons is asked to prove."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from verify.bounds.cones import Cone
from verify.core.intervals import Interval
from verify.core.primitives import Tensor
from verify.core.rounding import Array, Contract
from verify.model.network import Network
from verify.proofs.parts import Parts
from verify.search.backward import Backward


@dataclass(frozen=True, eq=False)
class Query:
    """Functionals of a network's output, plus constants, to be proved positive over boxes.

    box: lanes x the shape of the network's only input. functionals: lanes x functionals x the output's shape,
    constants: lanes x functionals. backward: bounds of the output. part: of which the network is the output, if it is
    only a part of the one that the proofs are about. parts: of each box, about the whole network; rows: which of their
    functionals these are. seconds: of work for each box; interrupts: whether a step that exceeds them is cut short.
    """

    network: Network
    box: Interval
    functionals: Array
    constants: Array
    contract: Contract
    backward: Backward
    seconds: float
    interrupts: bool
    part: Cone | None
    parts: Sequence[Parts]
    rows: NDArray[np.intp]

    @property
    def output(self) -> Tensor:
        """The network's only one."""
        return self.network.output
