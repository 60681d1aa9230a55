"""The physical names that a device, a person or another stack must know; everything else CloudFormation names."""

from dataclasses import dataclass

#: Tag of an edge server in whose stage no device has nucleus lite, with the value `classic`: the twin follows it.
NUCLEUS_TAG = "edgewright:nucleus"


@dataclass(frozen=True)
class Names:
    """Composes every physical name of a stage, so that two stages share an account without meeting.

    Attributes:
        stage: name of the stage, as in `-c stage=…`.
    """

    stage: str

    @property
    def prefix(self) -> str:
        """What every name of the stage starts with."""
        return f"edgewright-{self.stage}"

    def stack(self, kind: str) -> str:
        """Name of a stack, such as `edgewright-dev-storage` for the kind `storage`."""
        return f"{self.prefix}-{kind}"

    @property
    def pipeline(self) -> str:
        """The pipeline inside AWS that deploys the stage; its bucket folder is named after the first 20 characters."""
        return f"{self.prefix}-deploy"

    def artifact_bucket(self, account: str, region: str) -> str:
        """Name of the bucket that recipes, devices and roles refer to (unique among all accounts)."""
        return f"{self.prefix}-artifacts-{account}-{region}"

    def access_log_bucket(self, account: str, region: str) -> str:
        """Name of the bucket that logs access to the other one."""
        return f"{self.prefix}-access-logs-{account}-{region}"

    @property
    def thing_group(self) -> str:
        """The group of the ring `all`, which most devices are in."""
        return self.ring_group("all")

    def ring_group(self, ring: str) -> str:
        """The group that the deployment to a ring targets, such as `edgewright-dev-canary`; `all` has the bare name."""
        return self.prefix if ring == "all" else f"{self.prefix}-{ring}"

    def deployment(self, ring: str, server: str = "") -> str:
        """Name of a ring's deployment, such as `edgewright-dev (server 1a2b3c4d)`.

        Args:
            ring: The ring.
            server: Fingerprint of the edge server in it, if there is one: no device is sent a deployment twice, and a
                new server is the same device.
        """
        return f"{self.ring_group(ring)} (server {server})" if server else self.ring_group(ring)

    @property
    def join_function(self) -> str:
        """The function that the edge server asks for its certificate."""
        return f"{self.prefix}-join"

    @property
    def thing_type(self) -> str:
        """The type of every core device."""
        return f"{self.prefix}-core"

    @property
    def device_fleet(self) -> str:
        """The SageMaker device fleet, where a stage has one."""
        return f"{self.prefix}-devices"

    @property
    def role_alias(self) -> str:
        """The alias by which core devices take the token exchange role."""
        return f"{self.prefix}-token-exchange"

    @property
    def iot_policy(self) -> str:
        """The policy attached to the certificate of every core device."""
        return f"{self.prefix}-core-device"

    @property
    def client_group(self) -> str:
        """The thing group of the client devices around the cores, and the mark on them."""
        return f"{self.prefix}-clients"

    @property
    def client_type(self) -> str:
        """The type of every client device."""
        return f"{self.prefix}-client"

    @property
    def client_policy(self) -> str:
        """The policy to attach to the certificate of every client device."""
        return f"{self.prefix}-client-device"

    @property
    def claim(self) -> str:
        """The provisioning template by which devices join, and the policy of the claim certificates for it."""
        return f"{self.prefix}-claim"

    @property
    def edge_server(self) -> str:
        """Thing name of the core device that runs on EC2."""
        return f"{self.prefix}-edge-server"

    @property
    def runtime_component(self) -> str:
        """Component that holds the Python environment."""
        return f"edgewright.{self.stage}.Runtime"

    @property
    def inference_component(self) -> str:
        """Component that answers requests."""
        return f"edgewright.{self.stage}.Inference"

    def model_component(self, model: str) -> str:
        """Component of a model, such as `edgewright.dev.model.Digits` for the model `digits`."""
        return f"edgewright.{self.stage}.model.{self.model_package(model)}"

    @property
    def components_of_models(self) -> str:
        """How a device composes a model's component of the model's name: `{Model}` stands for `model_package`."""
        return f"edgewright.{self.stage}.model.{{Model}}"

    @property
    def topics(self) -> str:
        """What the stage's own topics start with."""
        return f"edgewright/{self.stage}"

    def handler_component(self, handler: str) -> str:
        """Component of a V1 function, such as `edgewright.dev.handler.DigitsV1` for the handler `digits-v1`."""
        return f"edgewright.{self.stage}.handler.{self.model_package(handler)}"

    def model_package(self, model: str) -> str:
        """Name of a model's archive without `.zip`, such as `Digits` for the model `digits`."""
        return "".join(part.capitalize() for part in model.split("-"))

    @property
    def signing_key_parameter(self) -> str:
        """SSM parameter with the public key that the model packages of the stage are signed with."""
        return f"/edgewright/{self.stage}/signing-key"

    def compilation_job(self, model: str) -> str:
        """Name of a model's compilation jobs without the `-<12 hex>` of their content."""
        return f"{self.prefix}-{model}"

    @property
    def heartbeat_topic(self) -> str:
        """MQTT topic of the signs of life of the fleet's inference components."""
        return f"edgewright/{self.stage}/heartbeat"

    @property
    def namespace(self) -> str:
        """CloudWatch namespace of the stage's own metrics; those of single devices lie in `<namespace>/devices`."""
        return f"Edgewright/{self.stage}"

    @property
    def response_topics(self) -> str:
        """MQTT topic filter of all answers."""
        return f"edgewright/{self.stage}/+/response"

    def rule(self, kind: str) -> str:
        """Name of an IoT rule, such as `edgewright_dev_Results`: it has no hyphens, and shows in the rule's errors."""
        return f"{self.prefix}_{kind}".replace("-", "_")

    def alarm(self, kind: str) -> str:
        """Name of an alarm, such as `edgewright-dev-digits-latency`: whoever is told reads it."""
        return f"{self.prefix}-{kind}"

    def request_topic(self, model: str) -> str:
        """MQTT topic on which the fleet takes requests for a model."""
        return f"edgewright/{self.stage}/{model}/request"

    def response_topic(self, model: str) -> str:
        """MQTT topic on which the fleet answers requests for a model."""
        return f"edgewright/{self.stage}/{model}/response"
