"""AWS's own components for client devices: name, version, what they need and their default configuration.

Their code is AWS's and not here. The table pins what stages deploy, and is all that the twin knows of them. Taken from
the components' pages in the Greengrass V2 developer guide ("Client device auth", "MQTT 3.1.1 broker (Moquette)",
"MQTT 5 broker (EMQX)", "MQTT bridge", "IP detector"); versions as AWS offered them to nucleus 2.18.3 in October 2026.
Of EMQX the guide's list of versions says 2.0.x and no more. Whether AWS has the one here is told by
`aws greengrassv2 list-component-versions` for the ARN greengrass:REGION:aws:components:NAME.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

AUTH = "aws.greengrass.clientdevices.Auth"
MOQUETTE = "aws.greengrass.clientdevices.mqtt.Moquette"
EMQX = "aws.greengrass.clientdevices.mqtt.EMQX"
BRIDGE = "aws.greengrass.clientdevices.mqtt.Bridge"
IP_DETECTOR = "aws.greengrass.clientdevices.IPDetector"
NUCLEUS = "aws.greengrass.Nucleus"

#: The brokers' port for client devices, and what the IP detector reports.
BROKER_PORT = 8883
#: Of the Auth component's `deviceGroups`.
GROUPS_FORMAT = "2021-03-05"
_PLUGIN, _GENERIC = "aws.greengrass.plugin", "aws.greengrass.generic"
_WITH_AUTH = {AUTH: (">=2.2.0 <2.6.0", "HARD")}


@dataclass(frozen=True)
class PublicComponent:
    """One of AWS's components.

    Attributes:
        name: Its name.
        version: The one that is deployed, and that the twin knows.
        description: What it does, for lists.
        kind: Type: a plugin runs in the process of the classic nucleus, so nucleus lite has none.
        dependencies: Component to the range of its versions and HARD or SOFT.
        configuration: Its default configuration.
    """

    name: str
    version: str
    description: str
    kind: str = _PLUGIN
    dependencies: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    configuration: Mapping[str, Any] = field(default_factory=dict)

    @property
    def recipe(self) -> dict[str, Any]:
        """Its recipe, as far as the guide tells; without artifacts, which only AWS has."""
        return {
            "RecipeFormatVersion": "2020-01-25",
            "ComponentName": self.name,
            "ComponentVersion": self.version,
            "ComponentType": self.kind,
            "ComponentDescription": self.description,
            "ComponentPublisher": "AWS",
            "ComponentConfiguration": {"DefaultConfiguration": dict(self.configuration)},
            "ComponentDependencies": {
                name: {"VersionRequirement": versions, "DependencyType": kind}
                for name, (versions, kind) in self.dependencies.items()
            },
            # No `runtime`: nucleus lite is offered only what names it.
            "Manifests": [{"Platform": {"os": "linux"}, "Lifecycle": {}, "Artifacts": []}],
        }


_ALL = (
    PublicComponent(
        AUTH,
        "2.5.7",
        "Authenticates client devices and authorizes what they do",
        dependencies={NUCLEUS: (">=2.6.0 <2.19.0", "SOFT")},
        configuration={
            "deviceGroups": {"formatVersion": GROUPS_FORMAT, "definitions": {}, "policies": {}},
            "certificates": {"serverCertificateValiditySeconds": 604_800, "disableCertificateRotation": False},
            "performance": {"maxActiveAuthTokens": 2500, "cloudRequestQueueSize": 100, "maxConcurrentCloudRequests": 1},
            "security": {"clientDeviceTrustDurationMinutes": 1},
        },
    ),
    PublicComponent(
        MOQUETTE,
        "2.3.7",
        "Local MQTT 3.1.1 broker",
        dependencies=_WITH_AUTH,
        configuration={"moquette": {"ssl_port": str(BROKER_PORT), "host": "0.0.0.0"}},  # noqa: S104 - AWS's default
    ),
    PublicComponent(
        EMQX,
        "2.0.2",  # not confirmed by a document: see above
        "Local MQTT 5 broker",
        kind=_GENERIC,
        dependencies=_WITH_AUTH,
        configuration={
            "emqxConfig": {"listeners": {"ssl": {"default": {"bind": BROKER_PORT}}}},
            "authMode": "enabled",
            "requiresPrivilege": "true",
            "startupTimeoutSeconds": "90",
            "ipcTimeoutSeconds": "5",
        },
    ),
    PublicComponent(
        BRIDGE,
        "2.3.4",
        "Relays messages between the local broker, local topics and AWS IoT Core",
        dependencies=_WITH_AUTH,
        configuration={"mqttTopicMapping": {}, "broker": {}, "mqttBridge": {}},
    ),
    PublicComponent(
        IP_DETECTOR,
        "2.2.5",
        "Tells AWS at which addresses client devices reach the local broker",
        dependencies={NUCLEUS: (">=2.1.0 <2.19.0", "SOFT")},
        configuration={
            "defaultPort": BROKER_PORT,
            "includeIPv4LoopbackAddrs": False,
            "includeIPv4LinkLocalAddrs": False,
        },
    ),
)
PUBLIC_COMPONENTS: Mapping[str, PublicComponent] = {component.name: component for component in _ALL}
"""The table, by name."""
