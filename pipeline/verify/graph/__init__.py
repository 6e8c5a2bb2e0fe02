"""A network as the engine sees it: ONNX lowered to a small graph of operations that can be bounded."""
