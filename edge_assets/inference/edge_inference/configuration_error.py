"""The error of configurations."""


class ConfigurationError(Exception):
    """A configuration that is not accepted; one line a mistake, each with key, rule and value."""
