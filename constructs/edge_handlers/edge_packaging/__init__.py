"""Custom resource: one SageMaker edge packaging job, a call that AWS retired and the twin still serves."""
