"""How a program ends that is interrupted, lacks a package, or whose reader has gone: in a line, without a traceback."""

import atexit
import os
import select
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType

_IN_CHECKOUT = (Path(__file__).resolve().parents[1] / "pyproject.toml").is_file()


#: What ends a program from outside, or from its terminal.
INTERRUPTS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
#: By the last one comes again what a finalizer has dropped.
INTERRUPTING = (*INTERRUPTS, signal.SIGALRM)


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Ignore interrupts for a bounded clean-up that must end."""
    numbers = INTERRUPTING if threading.current_thread() is threading.main_thread() else ()
    before = {number: signal.signal(number, signal.SIG_IGN) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def settle_endings() -> None:
    """Let this process end so; to be called before the imports that take a while."""
    sys.excepthook = _say
    sys.unraisablehook = _hear_again
    atexit.register(_end)  # the last of all, for it is the first that is registered


def _end() -> None:
    _reader_has_gone()
    if _interrupted or _lost:
        # Python would end so, too, but forgets it where another thread has run a text as code meanwhile.
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGINT)


_interrupted = False
_lost = False
_AGAIN_S = 0.05


def _hear_again(unraisable: "sys.UnraisableHookArgs") -> None:
    """Repeat an interrupt a little later that came while a finalizer ran: Python tells of it, and goes on."""
    global _lost
    if not issubclass(unraisable.exc_type, KeyboardInterrupt):
        sys.__unraisablehook__(unraisable)
        return
    _lost = True
    signal.signal(signal.SIGALRM, _interrupt_again)
    signal.setitimer(signal.ITIMER_REAL, _AGAIN_S)


def _interrupt_again(*_: object) -> None:
    global _lost
    _lost = False
    raise KeyboardInterrupt


def _say(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    global _interrupted
    if isinstance(error, KeyboardInterrupt):
        _interrupted = True
        sys.stderr.write("interrupted\n")
        sys.stderr.flush()
        # The key has ended jsii's Node, too; jsii complains of that while it ends itself.
        _drop(2)
    elif isinstance(error, ModuleNotFoundError) and "." not in str(error.name):  # else a mistake in a package
        checkout = "make setup (make setup-dev for the checks' packages), then source .venv/bin/activate"
        fix = checkout if _IN_CHECKOUT else "install it there"
        sys.stderr.write(f"{sys.executable} must have {error.name}, it has not: {fix}\n")
    elif not (isinstance(error, BrokenPipeError) and _reader_has_gone()):
        sys.__excepthook__(kind, error, trace)


def _reader_has_gone() -> bool:
    """Whether nobody reads the output any more, as behind `| head -1`; what is left of it is dropped."""
    try:
        output = sys.stdout.fileno()
        poll = select.poll()
        poll.register(output, 0)
        if not poll.poll(0):
            sys.stdout.flush()
            return False
    except BrokenPipeError:
        pass
    except (AttributeError, OSError, ValueError):  # no output, or none of a process
        return False
    # Python itself writes what is left when it ends.
    _drop(output)
    return True


def _drop(stream: int) -> None:
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream)
