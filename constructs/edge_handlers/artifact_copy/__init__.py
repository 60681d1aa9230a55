"""Custom resource: a build artifact at its content-addressed key, verified."""
