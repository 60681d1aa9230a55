"""What can go wrong around a function."""


class ConfigurationError(Exception):
    """A configuration that is not accepted; one line a mistake, each with key, rule and value."""


class FunctionError(Exception):
    """An event that the function did not finish; the text says why."""


class FunctionEndedError(FunctionError):
    """The function's process is gone."""
