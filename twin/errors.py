"""Errors of the twin that a user can act on."""


class TwinError(Exception):
    """The twin cannot do what was asked; the text says what, where and what to do, and is shown without a traceback."""
