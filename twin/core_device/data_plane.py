"""The Greengrass data plane: what a core device asks in a deployment."""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

from .cloud_http import CloudHttp
from .configuration import Configuration
from .errors import DeploymentError, RequestRejectedError


class DataPlane:
    """Client of the Greengrass data plane.

    Args:
        configuration: Endpoint and thing name.
        http: The way to the cloud.
    """

    def __init__(self, configuration: Configuration, http: CloudHttp) -> None:
        nucleus = configuration.nucleus
        self._base = f"https://{nucleus.data_endpoint}:{nucleus.data_plane_port}/greengrass/v2"
        self._thing_name = configuration.system.thing_name
        self._http = http

    async def thing_groups(self) -> set[str]:
        """Names of the thing groups that the device is in."""
        url = f"{self._base}/coreDevices/{quote(self._thing_name, safe='')}/thingGroups"
        answer = await self._ask("GET", url, "the list of the device's thing groups")
        return {group["thingGroupName"] for group in answer["thingGroups"]}

    async def resolve(self, name: str, requirements: Mapping[str, str], platform: Mapping[str, str]) -> dict[str, Any]:
        """The newest version of a component that meets all requirements.

        Args:
            name: The component.
            requirements: Version range by who wants it.
            platform: From `recipe.device_platform`.

        Returns:
            The canonical recipe, with the version's ARN added under `arn`.
        """
        attributes = dict(platform)
        body = {
            "componentCandidates": [{"componentName": name, "versionRequirements": dict(requirements)}],
            "platform": {"name": attributes["os"], "attributes": attributes},
        }
        what = f"component {name} {dict(requirements)}"
        answer = await self._ask("POST", f"{self._base}/resolveComponentCandidates", what, body)
        try:
            (resolved,) = answer["resolvedComponentVersions"]
            recipe = json.loads(base64.b64decode(resolved["recipe"]))
            return {**recipe, "arn": resolved["arn"]}
        except (KeyError, TypeError, ValueError, binascii.Error) as exc:
            raise DeploymentError(f"{what}: the answer of the data plane is not understood: {exc!r}") from exc

    async def artifact_url(self, arn: str, path: str) -> str:
        """A pre-signed URL of an artifact that AWS keeps itself (`greengrass:` URIs)."""
        url = f"{self._base}/components/{quote(arn, safe='')}/artifacts/{quote(path)}"
        answer = await self._ask("GET", url, f"the location of the artifact {path}")
        return str(answer["preSignedUrl"])

    async def _ask(self, method: str, url: str, what: str, body: Any = None) -> dict[str, Any]:
        try:
            response = await self._http.request(method, url, what=what, json=body)
            answer = response.json()
        except RequestRejectedError as exc:
            kind = "COMPONENT_VERSION_REQUIREMENTS_NOT_MET" if exc.code == "404" else "CLOUD_SERVICE_ERROR"
            raise DeploymentError(str(exc), kind) from exc
        except ValueError as exc:
            raise DeploymentError(f"{what}: {url} did not answer with JSON", "CLOUD_SERVICE_ERROR") from exc
        if not isinstance(answer, dict):
            raise DeploymentError(f"{what}: {url} did not answer with a JSON object", "CLOUD_SERVICE_ERROR")
        return answer
