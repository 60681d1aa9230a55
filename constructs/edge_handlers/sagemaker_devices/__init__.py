"""Custom resource: the devices of a SageMaker device fleet, which AWS retired and keeps in its API."""
