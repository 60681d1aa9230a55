"""Custom resource: takes deployments and component versions away at destroy."""
