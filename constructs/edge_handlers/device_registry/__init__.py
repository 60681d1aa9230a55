"""Custom resource: the things of a fleet and their certificates."""
