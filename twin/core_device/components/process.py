"""A step of a component as a process group of its own, and its output.

With the variables of a recipe, and the environment that the device gives to its components' processes.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import re
import secrets
import signal
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from io import RawIOBase
from pathlib import Path
from typing import Any, Protocol

from nucleus_lite import RELEASE
from twin.core_device.configuration import Configuration, PosixUser
from twin.core_device.dialect import FOREIGN_VARIABLE, VARIABLE
from twin.core_device.errors import DeploymentError
from twin.core_device.files import Layout
from twin.core_device.processes import ProcessRegistry

from .recipe import Recipe, Step

NUCLEUS_VERSION = RELEASE
TOKEN_EXCHANGE_SERVICE = "aws.greengrass.TokenExchangeService"  # noqa: S105 - a component's name
# The last one is for an interpreter on PATH that starts only with it.
_INHERITED: tuple[str, ...] = ("PATH", "HOME", "LANG", "LC_ALL", "TZ", "TMPDIR", "LD_LIBRARY_PATH")


@dataclass
class Tokens:
    """The secret that tells components apart: made at the first start, gone with the component."""

    _by_component: dict[str, str] = field(default_factory=dict)

    def of(self, component: str) -> str:
        """A component's token; without quotes or backslashes, because the SDKs insert it unescaped in JSON."""
        return self._by_component.setdefault(component, secrets.token_hex(16))

    def component(self, token: str) -> str | None:
        """Whose token it is, or None."""
        for component, own in self._by_component.items():
            if secrets.compare_digest(own.encode(), token.encode(errors="surrogatepass")):
                return component
        return None

    def revoke(self, component: str) -> None:
        """Forget a component's token."""
        self._by_component.pop(component, None)


@dataclass
class ComponentEnvironment:
    """Composes scripts and environments of steps.

    Args:
        configuration: The device's.
        layout: Its folders.
        socket: The IPC socket.
        credentials_url: The local token exchange endpoint.
        tokens: The components' tokens.
        component_configuration: The value at a key path of a component's configuration; `KeyError` when absent.
        component_version: The version of another component on the device, or None.
    """

    configuration: Configuration
    layout: Layout
    socket: Path
    credentials_url: str
    tokens: Tokens
    component_configuration: Callable[[str, tuple[str, ...]], Any]
    component_version: Callable[[str], str | None] = lambda _component: None

    def prepare(self, recipe: Recipe, step: Step) -> tuple[str, Mapping[str, str]]:
        """A step's script and environment, variables replaced; nothing else of the device's environment leaks in.

        Raises:
            DeploymentError: The recipe uses a variable that does not exist.
        """

        def replace(text: str) -> str:
            if self.configuration.nucleus.dialect.all_steps:
                text = FOREIGN_VARIABLE.sub(lambda match: self._foreign(recipe, match), text)
            return self._interpolated(text, recipe.name, recipe.version)

        own = {name: replace(value) for name, value in step.environment.items()}
        return replace(step.script), {**self._given(recipe), **own}

    def _interpolated(self, text: str, component: str, version: str) -> str:
        variables = recipe_variables(self.layout, component, version, self.configuration.system.thing_name)
        return interpolate(
            text,
            variables,
            lambda path: self.component_configuration(component, path),
            missing_stays=self.configuration.nucleus.dialect.missing_stays,
            escapes=self.configuration.nucleus.dialect.escapes_values,
        )

    def _foreign(self, recipe: Recipe, match: re.Match[str]) -> str:
        """The value of `{<dependency>:<variable>}`; the classic nucleus knows those of dependencies only."""
        name, variable = match[1], match[2]
        version = self.component_version(name)
        if version is None or name not in {dependency.name for dependency in recipe.dependencies}:
            raise DeploymentError(f"{match[0]} must be a variable of a dependency, {recipe.name} has no such one")
        return self._interpolated(f"{{{variable}}}", name, version)

    def _given(self, recipe: Recipe) -> dict[str, str]:
        nucleus, system = self.configuration.nucleus, self.configuration.system
        token = self.tokens.of(recipe.name)
        given = {name: os.environ[name] for name in _INHERITED if name in os.environ} | {
            "AWS_IOT_THING_NAME": system.thing_name,
            "AWS_REGION": nucleus.region,
            "AWS_DEFAULT_REGION": nucleus.region,
            "AWS_GG_NUCLEUS_DOMAIN_SOCKET_FILEPATH_FOR_COMPONENT": str(self.socket),
            "SVCUID": token,
            "GGC_VERSION": NUCLEUS_VERSION,
            "GG_ROOT_CA_PATH": str(system.root_ca_path),
        }
        if any(dependency.name == TOKEN_EXCHANGE_SERVICE for dependency in recipe.dependencies):
            given["AWS_CONTAINER_CREDENTIALS_FULL_URI"] = self.credentials_url
            given["AWS_CONTAINER_AUTHORIZATION_TOKEN"] = token
        if nucleus.proxy_url:
            given |= dict.fromkeys(("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"), nucleus.proxy_url)
            given["NO_PROXY"] = "127.0.0.1,localhost"
        return given


def recipe_variables(layout: Layout, component: str, version: str, thing_name: str) -> dict[str, str]:
    """The variables that have a fixed value; path values have no trailing slash, so scripts must write it."""
    return {
        "artifacts:path": str(layout.artifacts(component, version)),
        "artifacts:decompressedPath": str(layout.unarchived(component, version)),
        "work:path": str(layout.work(component)),
        "kernel:rootPath": str(layout.root),
        "iot:thingName": thing_name,
    }


def interpolate(
    text: str,
    variables: Mapping[str, str],
    configuration: Callable[[tuple[str, ...]], Any],
    *,
    missing_stays: bool = False,
    escapes: bool = False,
) -> str:
    """Replace the variables in a script or an environment value.

    Args:
        text: The text; braces that are no variable of these namespaces stay as they are.
        variables: From `recipe_variables`.
        configuration: The value at a key path of the component's configuration; a `KeyError` when there is none.
        missing_stays: Leave a variable of the configuration as text where there is no such key, as the classic nucleus
            does.
        escapes: Give values of the configuration as text for double quotes, as nucleus lite does.

    Raises:
        DeploymentError: A variable of a known namespace does not exist.
    """

    def value(match: re.Match[str]) -> str:
        name = f"{match[1]}:{match[2]}"
        if match[1] == "configuration":
            key_path = tuple(key for key in match[2].split("/") if key)
            try:
                found = configuration(key_path)
            except KeyError as exc:
                if missing_stays:
                    return match[0]
                raise DeploymentError(f"{{{name}}} is not in the component's configuration") from exc
            return _for_quotes(found) if escapes else _plain(found)
        if name not in variables:
            known = ", ".join(f"{{{known}}}" for known in variables)
            raise DeploymentError(f"{{{name}}} is not a recipe variable, known are {known}, {{configuration:/<key>}}")
        return variables[name]

    return VARIABLE.sub(value, text)


def _plain(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, separators=(",", ":"))


def _for_quotes(value: Any) -> str:
    text = f"{value:.16f}" if isinstance(value, float) else _plain(value)
    return re.sub(r'(["$`\\])', r"\\\1", text)


log = logging.getLogger(__name__)

_DRAIN_S = 0.5
_KILL_WAIT_S = 5.0
_TAIL_BYTES = 4096


class RunningStep(Protocol):
    """A step of a component under way: a process group, or the model of one."""

    @property
    def pid(self) -> int:
        """What the log calls it by."""

    async def wait(self) -> int:
        """Wait for its end; its exit status, negative for the signal that ended it."""

    async def stop(self, grace_s: float) -> None:
        """Ask it to end, and make it after a grace period."""


class Output(Protocol):
    """What becomes of a component's output."""

    def write(self, output: bytes) -> None:
        """Append output of the component."""

    def note(self, text: str) -> None:
        """Append a line of the device's own."""

    def forget_output(self) -> None:
        """Begin a new step."""

    def last_line(self) -> str:
        """The last line of the step's output; empty when there was none."""

    def close(self) -> None:
        """Nothing more is written for now."""


Spawn = Callable[[Step, str, Mapping[str, str]], Awaitable[RunningStep]]
"""Starts a step: (step, its script, its environment) → what runs."""


def in_processes(folder: Path, log: ComponentLog, registry: ProcessRegistry, user: PosixUser | None = None) -> Spawn:
    """Run the steps of a component as processes in its working directory, made when it does not exist.

    Args:
        folder: The directory.
        log: Where output goes.
        registry: Where process groups are noted.
        user: Whom they run as, and whose the directory is; the device's own user by default.
    """

    async def spawn(_step: Step, script: str, environment: Mapping[str, str]) -> RunningStep:
        folder.mkdir(parents=True, exist_ok=True)
        if user is not None:
            os.chown(folder, user.uid, user.gid)
        return await ComponentProcess.start(script, environment, folder, log, registry, user)

    return spawn


class ComponentProcess:
    """A running script.

    Args:
        process: The shell, leader of its own session.
        log: Where its output goes.
        registry: Where its group is noted while it lives.
    """

    def __init__(self, process: asyncio.subprocess.Process, log: ComponentLog, registry: ProcessRegistry) -> None:
        self._process, self._log, self._registry = process, log, registry
        self._reader = asyncio.create_task(self._read())

    @classmethod
    async def start(
        cls,
        script: str,
        environment: Mapping[str, str],
        folder: Path,
        log: ComponentLog,
        registry: ProcessRegistry,
        user: PosixUser | None = None,
    ) -> ComponentProcess:
        """Run a script by /bin/sh in a folder with exactly the given environment; as a user, where one is given."""
        as_user: dict[str, Any] = {}
        if user is not None:
            as_user = {"user": user.uid, "group": user.gid, "extra_groups": []}
            environment = {**environment, "HOME": user.home, "USER": user.name, "LOGNAME": user.name}
        try:
            process = await asyncio.create_subprocess_exec(
                "/bin/sh",
                "-c",
                script,
                cwd=folder,
                env=dict(environment),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.STDOUT,
                start_new_session=True,
                **as_user,
            )
        except ValueError as exc:  # a zero byte, say, out of a configuration
            raise OSError(f"no process takes its script or environment: {exc}") from exc
        registry.add(process.pid)
        return cls(process, log, registry)

    @property
    def pid(self) -> int:
        """The number of the process and of its group."""
        return self._process.pid

    async def wait(self) -> int:
        """Wait for the script's end; whatever it left running is ended too.

        Returns:
            Its exit status; negative is the number of the signal that ended it.
        """
        status = await self._process.wait()
        await self._clean_up()
        return status

    async def stop(self, grace_s: float) -> None:
        """Ask the whole group to end (SIGTERM), and after a grace period make it (SIGKILL)."""
        self._signal(signal.SIGTERM)
        # This runs while its task is cancelled, where `asyncio.timeout` of Python 3.11.2 (Debian 12) does not end in a
        # TimeoutError: the group would never be killed.
        ended = asyncio.ensure_future(self._process.wait())
        if not (await asyncio.wait([ended], timeout=grace_s))[0]:
            self._log.note(f"not ended {grace_s:g} s after SIGTERM: killed")
            self._signal(signal.SIGKILL)
            await asyncio.wait([ended], timeout=_KILL_WAIT_S)
        ended.cancel()
        await self._clean_up()

    async def _clean_up(self) -> None:
        self._signal(signal.SIGKILL)  # members that outlived the script
        # A process that has left the group may hold the pipe open for ever.
        await asyncio.wait([self._reader], timeout=_DRAIN_S)
        self._reader.cancel()
        self._registry.remove(self._process.pid)

    def _signal(self, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, number)

    async def _read(self) -> None:
        assert self._process.stdout is not None  # noqa: S101 - it was asked for
        while chunk := await self._process.stdout.read(1 << 16):
            self._log.write(chunk)


class ComponentLog:
    """Appends a component's output to a file and keeps its last line at hand.

    Args:
        path: The file; full ones are kept as `<name>.1`, `<name>.2`.
        limit_bytes: Size at which a new file is begun.
        kept: How many full ones are kept.
    """

    def __init__(self, path: Path, limit_bytes: int = 1 << 20, kept: int = 2) -> None:
        self._path, self._limit_bytes, self._kept = path, limit_bytes, kept
        self._stream: RawIOBase | None = None
        self._tail = b""
        self._lost = False

    def write(self, output: bytes) -> None:
        """Append output of the component."""
        self._tail = (self._tail + output)[-_TAIL_BYTES:]
        self._append(output)

    def note(self, text: str) -> None:
        """Append a line of the device's own, which does not count as output."""
        start = b"" if self._tail.endswith(b"\n") or not self._tail else b"\n"
        stamp = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        self._append(start + f"[core device {stamp}] {text}\n".encode())

    def forget_output(self) -> None:
        """Begin a new step: the last line is that of the new step's output."""
        self._tail = b""

    def last_line(self) -> str:
        """The last line of output that is not blank, cut to 300 characters; empty when there was none."""
        lines = [line.strip() for line in self._tail.decode(errors="replace").splitlines() if line.strip()]
        return lines[-1][:300] if lines else ""

    def close(self) -> None:
        """Close the file; a later write opens it again."""
        if self._stream:
            self._stream.close()
            self._stream = None

    def _append(self, output: bytes) -> None:
        """On a full disk the output is lost: a component whose output nobody reads would wait for ever."""
        try:
            if self._stream is None:
                self._path.parent.mkdir(parents=True, exist_ok=True)
                self._stream = self._path.open("ab", buffering=0)
            self._stream.write(output)
            if self._stream.tell() >= self._limit_bytes:
                self._rotate()
            self._lost = False
        except OSError as exc:
            if not self._lost:
                log.warning("output of a component is lost: %s cannot be written: %s", self._path, exc)
            self._lost = True

    def _rotate(self) -> None:
        self.close()
        for number in range(self._kept, 0, -1):
            source = self._path if number == 1 else self._path.with_name(f"{self._path.name}.{number - 1}")
            if source.exists():
                source.replace(self._path.with_name(f"{self._path.name}.{number}"))
