"""The twin: an AWS cloud and an edge device on this machine, for deploys without an account.

`python -m twin` is its command line; `twin.lifecycle`, `twin.inventory` and `twin.operator` are its Python interface.
"""


class TwinError(Exception):
    """The twin cannot do what was asked; the text says what, where and what to do, and is shown without a traceback."""
