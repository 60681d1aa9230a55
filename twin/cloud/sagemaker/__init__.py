"""SageMaker compilation jobs, with ONNX Runtime's graph optimiser as the compiler, and endpoints that infer."""
