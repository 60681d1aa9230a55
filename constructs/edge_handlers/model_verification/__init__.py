"""Custom resource: proof that a model answers its sample as expected on a SageMaker endpoint, which is then gone."""
