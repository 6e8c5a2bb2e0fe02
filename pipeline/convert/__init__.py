"""Any source to one clean ONNX model: passes, one a file, each with `check` and `rewrite`."""
