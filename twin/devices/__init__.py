"""Devices beside the edge servers: real ones that join the twin, and the twin's own by the dozen."""
