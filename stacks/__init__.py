"""Deployment units: they wire constructs, grant and output."""
