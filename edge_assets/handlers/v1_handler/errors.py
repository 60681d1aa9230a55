"""What can go wrong around a function."""


class FunctionError(Exception):
    """An event that the function did not finish; the text says why."""


class FunctionEndedError(FunctionError):
    """The function's process is gone."""
