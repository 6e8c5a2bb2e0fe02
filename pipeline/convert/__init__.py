"""Any source to one clean ONNX model."""
