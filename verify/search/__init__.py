"""The search for proofs: heuristic, in floating point, on a CPU or GPU (torch).

Nothing here is trusted: what is found is handed to `verify.split_trees` or `verify.reachability`, which establish it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from verify.errors import Problem

if TYPE_CHECKING:
    from verify.search.branch_and_bound import Outcome
    from verify.search.input_splitting import InputSplitting


def proof_search() -> Callable[..., Iterator[Outcome]]:
    """`branch_and_bound.search`, which needs torch; raises Problem where that is missing."""
    try:
        from verify.search.branch_and_bound import search
    except ImportError as error:
        raise _missing(error) from error
    return search


def input_splitting() -> type[InputSplitting]:
    """The same for splits of inputs."""
    try:
        from verify.search.input_splitting import InputSplitting
    except ImportError as error:
        raise _missing(error) from error
    return InputSplitting


def _missing(error: ImportError) -> Problem:
    return Problem(f"searching for proofs needs torch, which cannot be imported ({error})")
