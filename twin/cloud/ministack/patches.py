"""The one way to replace a name of MiniStack: each with its reason and the signature that it is expected to have.

A patch is declared where its module is imported and takes effect when the cloud starts, all of them or none. So a
MiniStack of another release either fits, or is refused with the list of what does not.

How the installed one fits says a report: the ledger, and the names that the twin's modules read or call besides. Those
are found in the modules' source: they can go missing as well.
"""

from __future__ import annotations

import ast
import functools
import importlib
import importlib.metadata
import inspect
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from config.places import PACKAGE

SINCE = "1.5.33"
"""The release of MiniStack against which the patches were last read."""

EXTENSIONS = (
    "twin.cloud.doors",
    "twin.cloud.authorization",
    # Before the next one: what that one sends a failed creation is not stopped.
    "twin.cloud.stack_deletion",
    "twin.cloud.stack_operations",
    "twin.cloud.functions",
    "twin.cloud.iot.jobs",
    # After the one before: what comes too fast is not handled.
    "twin.cloud.rates",
    "twin.cloud.credentials",
    "twin.cloud.iot.registry",
    "twin.cloud.iot.front",
    "twin.cloud.iot.connections",
    "twin.cloud.greengrass.api",
    "twin.cloud.rules_engine",
    "twin.cloud.cloudwatch",
    "twin.cloud.bounds",
    "twin.cloud.topics",
    "twin.cloud.sagemaker.api",
    "twin.cloud.ec2",
    "twin.cloud.edge_server.supervisor",
    # Last, so that its final snapshot is taken before the others stop.
    "twin.cloud.snapshots",
)
"""Modules that declare patches, or have `install(settings)`, or both; a later one may wrap what an earlier one has."""

Function = TypeVar("Function", bound=Callable[..., Any])


class PatchError(Exception):
    """MiniStack is not as the patches expect it; the text lists every name that does not fit."""


@dataclass(frozen=True)
class Misfit:
    """A name that is not as expected."""

    target: str
    expected: str
    found: str

    def __str__(self) -> str:
        return f"{self.target} must be {self.expected}, got {self.found}"


@dataclass(frozen=True)
class Patch:
    """One entry of the ledger.

    Attributes:
        target: Name below the package `ministack`, such as `services.iot.broker_publish`, `core.module.Class.method`
            or `app.HANDLERS[key]`.
        why: What the twin has instead, or needs it for.
        since: The release of MiniStack since which the target is as expected.
        signature: Parameters with their defaults, `async` before those of a coroutine function; for what cannot be
            called the name of its type.
        function: Called in its place with the original before the arguments; for what cannot be called, with the
            original alone, and gives what replaces it. None for a name that is used, not replaced.
        module: Where it was declared.
    """

    target: str
    why: str
    since: str
    signature: str
    function: Callable[..., Any] | None
    module: str

    def misfit(self) -> Misfit | None:
        """What is wrong with the target; None if it is as expected."""
        try:
            found = signature_of(_Place.of(self.target).value)
        except (ImportError, AttributeError, KeyError, TypeError):
            return Misfit(self.target, self.signature, "nothing")
        return None if found == self.signature else Misfit(self.target, self.signature, found)


class Ledger:
    """Every patch that was declared, in order."""

    def __init__(self) -> None:
        self._patches: list[Patch] = []

    @property
    def patches(self) -> tuple[Patch, ...]:
        """The entries so far."""
        return tuple(self._patches)

    def patch(self, *targets: str, why: str, signature: str, since: str = SINCE) -> Callable[[Function], Function]:
        """Declare that a function takes the place of a name of MiniStack; arguments as of `Patch`.

        Args:
            targets: One, or several names of the same thing.
            why: What for.
            signature: The expected one.
            since: Release of MiniStack.

        Returns:
            A decorator that leaves the function as it is: called directly, it takes the original first.
        """

        def declare(function: Function) -> Function:
            for target in targets:
                self._patches.append(Patch(target, why, since, signature, function, function.__module__))
            return function

        return declare

    def require(self, target: str, *, why: str, signature: str, since: str = SINCE) -> None:
        """Declare that a name of MiniStack is used as it is; arguments as of `Patch`."""
        self._patches.append(Patch(target, why, since, signature, None, __name__))

    def misfits(self, module: str | None = None) -> list[Misfit]:
        """Every name that is not as expected, by name; to be asked before anything is applied.

        Args:
            module: Only those that it declared.
        """
        found = {patch.target: patch.misfit() for patch in self._patches if module in (None, patch.module)}
        return [misfit for _target, misfit in sorted(found.items()) if misfit is not None]

    def check(self, module: str | None = None) -> None:
        """Look at every target; arguments as of `misfits`.

        Raises:
            PatchError: With all that do not fit.
        """
        if found := self.misfits(module):
            raise PatchError(
                f"MiniStack {release()} does not fit the twin's patches in {len(found)} of {len(self._patches)} names:"
                + "".join(f"\n  {misfit}" for misfit in found)
                + f"\ninstall ministack=={SINCE}, or change these patches"
            )

    def apply(self, module: str | None = None) -> Callable[[], None]:
        """Put the patches in place, in the order of their declaration: a later one wraps an earlier one.

        Args:
            module: Only those that it declared.

        Returns:
            Takes them back.

        Raises:
            PatchError: If a target does not fit; nothing is changed then.
        """
        self.check(module)
        undo: list[Callable[[], None]] = []
        for patch in self._patches:
            if patch.function is not None and module in (None, patch.module):
                place = _Place.of(patch.target)
                undo.append(functools.partial(place.put, place.value))
                place.put(_replacement(patch.function, place.value))

        def take_back() -> None:
            for step in reversed(undo):
                step()

        return take_back


LEDGER = Ledger()
patch, require = LEDGER.patch, LEDGER.require


def release() -> str:
    """The release of MiniStack that is installed."""
    try:
        return importlib.metadata.version("ministack")
    except importlib.metadata.PackageNotFoundError:
        return "of an unknown release"


def signature_of(value: Any) -> str:
    """How a patch's `signature` describes a value: without annotations, which change nothing for a caller."""
    if not callable(value):
        return type(value).__name__
    bare = inspect.Signature(
        [
            # A sentinel's address is another one in each process.
            each.replace(
                annotation=inspect.Parameter.empty, default=... if type(each.default) is object else each.default
            )
            for each in inspect.signature(value).parameters.values()
        ]
    )
    return f"{'async ' if inspect.iscoroutinefunction(value) else ''}{bare}"


def _replacement(function: Callable[..., Any], original: Any) -> Any:
    if not callable(original):
        return function(original)
    if inspect.iscoroutinefunction(original):

        @functools.wraps(original)
        async def coroutine(*arguments: Any, **named: Any) -> Any:
            return await function(original, *arguments, **named)

        return coroutine

    @functools.wraps(original)
    def replacement(*arguments: Any, **named: Any) -> Any:
        return function(original, *arguments, **named)

    return replacement


@dataclass(frozen=True)
class _Place:
    """Where a target is kept: an attribute of a module or class, or an item of a mapping."""

    holder: Any
    key: str
    is_item: bool

    @classmethod
    def of(cls, target: str) -> _Place:
        dotted, *items = re.split(r"\]?\[", target.removesuffix("]"))
        names = dotted.split(".")
        holder, rest = importlib.import_module("ministack"), names
        for count in range(1, len(names)):
            try:
                holder = importlib.import_module(".".join(["ministack", *names[:count]]))
            except ModuleNotFoundError:
                break
            rest = names[count:]
        steps = [*((name, False) for name in rest), *((name, True) for name in items)]
        for name, is_item in steps[:-1]:
            holder = cls(holder, name, is_item).value
        return cls(holder, *steps[-1])

    @property
    def value(self) -> Any:
        return self.holder[self.key] if self.is_item else getattr(self.holder, self.key)

    def put(self, value: Any) -> None:
        if self.is_item:
            self.holder[self.key] = value
        else:
            setattr(self.holder, self.key, value)


@dataclass(frozen=True)
class Report:
    """The ledger, the release that is installed, and everything that does not fit."""

    patches: tuple[Patch, ...]
    release: str
    misfits: tuple[Misfit, ...]


def take_report() -> Report:
    """Import every extension, and look at what it declares and uses."""
    misfits: list[Misfit] = []
    for name in ("twin.cloud.server", *EXTENSIONS):
        try:
            importlib.import_module(name)
        except (ImportError, AttributeError) as exc:
            misfits.append(Misfit(name, "importable", repr(exc)))
    return Report(LEDGER.patches, release(), (*misfits, *LEDGER.misfits(), *missing()))


def missing(*folders: Path) -> list[Misfit]:
    """The names that MiniStack does not have.

    Args:
        folders: Of Python files, searched with the folders below them; by default the cloud's and the tools'.

    Returns:
        One for each name, with the files that use it.
    """
    users: dict[str, set[str]] = {}
    searched = folders or (PACKAGE / "twin" / "cloud", PACKAGE / "tools")
    for path in sorted(path for folder in searched for path in folder.rglob("*.py")):
        for name in used_names(path.read_text("utf-8")):
            users.setdefault(name, set()).add(path.name)
    return [
        Misfit(name, f"there for {', '.join(sorted(files))}", "nothing")
        for name, files in sorted(users.items())
        if not _exists(name)
    ]


def used_names(source: str) -> Iterator[str]:
    """Names below the package that a module imports, or takes from what it imports.

    Args:
        source: The module's text.
    """
    tree = ast.parse(source)
    imported: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.partition(".")[0] == "ministack":
            for alias in node.names:
                imported[alias.asname or alias.name] = f"{node.module}.{alias.name}".removeprefix("ministack.")
    yield from imported.values()
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in imported:
            yield f"{imported[node.value.id]}.{node.attr}"


def _exists(name: str) -> bool:
    module, rest = importlib.import_module("ministack"), name.split(".")
    while rest:
        try:
            module = importlib.import_module(f"{module.__name__}.{rest[0]}")
        except ImportError:
            break
        del rest[0]
    value: object = module
    for step in rest:
        if not hasattr(value, step):
            return False
        value = getattr(value, step)
    return True
