"""What can go wrong between the component and its device."""


class IpcError(Exception):
    """A call to the device failed; another attempt may work."""


class RefusedError(IpcError):
    """The device refuses the call, and would refuse it again: another topic or another policy is needed."""


class HungUpError(IpcError):
    """The device took the connection and ended it without a word.

    Nucleus lite does that with a process that it does not know, and with one client too many.
    """
