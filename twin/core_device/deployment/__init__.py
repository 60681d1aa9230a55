"""Deployments on a core device: taken as jobs, resolved, fetched, switched to, undone."""
