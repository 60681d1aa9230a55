"""Custom resource: the model package that devices download."""
