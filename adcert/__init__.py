"""Certified training and export to ONNX."""
