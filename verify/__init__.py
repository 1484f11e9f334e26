"""Proofs about ONNX files: what a network answers for every input in a box, as executed in float32."""

from verify.version import __version__ as __version__
