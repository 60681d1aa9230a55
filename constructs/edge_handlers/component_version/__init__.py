"""Custom resource: makes a component version, or takes over the one that is there with the same recipe."""
