"""The search for proofs: heuristic, in floating point, on a CPU or GPU (torch).

Nothing here is trusted: what is found is handed to `verify.split_trees`, which establishes it.
"""
