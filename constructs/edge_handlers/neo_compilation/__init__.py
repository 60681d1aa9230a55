"""Custom resource: one SageMaker Neo compilation job."""
