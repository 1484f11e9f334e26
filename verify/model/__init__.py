"""From an ONNX file to a network of those operations, or a sentence that says why not."""
