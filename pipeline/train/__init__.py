"""Training ONNX graphs in place: objectives, bounds to train with, the loop, checkpoints, presets."""
