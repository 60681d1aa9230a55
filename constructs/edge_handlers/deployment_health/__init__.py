"""Custom resource: waits until the core devices of a ring run its deployment."""
