"""The search for proofs: heuristic, in floating point, on a CPU or GPU (torch).

Nothing here is trusted: what is found is handed to `verify.proofs.split_trees` or `verify.proofs.reachability`, which
establish it.
"""

from __future__ import annotations

from verify.errors import Problem


def require_torch() -> None:
    """Raise Problem where torch, which all modules of this package import, is missing."""
    try:
        import torch  # noqa: F401
    except ImportError as error:
        raise Problem(f"searching for proofs needs torch, which cannot be imported ({error})") from error
