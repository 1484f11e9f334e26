"""Bounds as an ONNX graph, for serving, and verdicts of the runtime that executes it."""

from verify.compiled.bounds import compile_bounds as compile_bounds
