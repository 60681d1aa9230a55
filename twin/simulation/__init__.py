"""Hundreds of core devices in one process: the device's own protocol code, and models of what it would run."""
