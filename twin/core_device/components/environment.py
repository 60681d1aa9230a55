"""The variables of a recipe, and the environment that the device gives to its components' processes."""

from __future__ import annotations

import json
import os
import re
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nucleus_lite import RELEASE
from twin.core_device.configuration import Configuration
from twin.core_device.dialect import FOREIGN_VARIABLE, VARIABLE
from twin.core_device.errors import DeploymentError
from twin.core_device.files import Layout

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
