"""Custom resource: a model optimised by the very ONNX Runtime that the devices run."""
