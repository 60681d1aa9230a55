"""SageMaker's models, endpoint configurations and endpoints in memory; a test moves an endpoint on by its status."""

import io
import json
from typing import Any

from tests.handlers.fake_service import FakeService, refusal


class FakeEndpoints(FakeService):
    """Serves both the control plane and the runtime; `answer` is what an endpoint answers."""

    def __init__(self) -> None:
        super().__init__()
        self.models: dict[str, Any] = {}
        self.configs: dict[str, Any] = {}
        self.endpoints: dict[str, dict[str, Any]] = {}
        self.answer: dict[str, Any] = {}
        #: Days by group; SageMaker makes the group with the first line that an endpoint writes.
        self.log_groups: dict[str, int | None] = {}

    @property
    def nothing_left(self) -> bool:
        return not (self.models or self.configs or self.endpoints)

    def create_model(self, **arguments: Any) -> dict[str, Any]:
        return self._create("create_model", self.models, arguments["ModelName"], arguments)

    def create_endpoint_config(self, **arguments: Any) -> dict[str, Any]:
        return self._create("create_endpoint_config", self.configs, arguments["EndpointConfigName"], arguments)

    def create_endpoint(self, **arguments: Any) -> dict[str, Any]:
        record = {**arguments, "EndpointStatus": "Creating"}
        return self._create("create_endpoint", self.endpoints, arguments["EndpointName"], record)

    def describe_endpoint(self, EndpointName: str) -> dict[str, Any]:  # noqa: N803
        self.record("describe_endpoint", EndpointName=EndpointName)
        if EndpointName not in self.endpoints:
            raise refusal("ValidationException", "DescribeEndpoint", f'Could not find endpoint "{EndpointName}".')
        return self.endpoints[EndpointName]

    def delete_endpoint(self, EndpointName: str) -> dict[str, Any]:  # noqa: N803
        return self._delete("delete_endpoint", self.endpoints, EndpointName)

    def delete_endpoint_config(self, EndpointConfigName: str) -> dict[str, Any]:  # noqa: N803
        return self._delete("delete_endpoint_config", self.configs, EndpointConfigName)

    def delete_model(self, ModelName: str) -> dict[str, Any]:  # noqa: N803
        return self._delete("delete_model", self.models, ModelName)

    def invoke_endpoint(self, EndpointName: str, ContentType: str, Body: bytes) -> dict[str, Any]:  # noqa: N803
        self.record("invoke_endpoint", EndpointName=EndpointName, ContentType=ContentType, Body=json.loads(Body))
        return {"Body": io.BytesIO(json.dumps(self.answer).encode())}

    def put_retention_policy(self, logGroupName: str, retentionInDays: int) -> dict[str, Any]:  # noqa: N803
        self.record("put_retention_policy", logGroupName=logGroupName)
        if logGroupName not in self.log_groups:
            raise refusal("ResourceNotFoundException", "PutRetentionPolicy", "The specified log group does not exist.")
        self.log_groups[logGroupName] = retentionInDays
        return {}

    def _create(self, operation: str, kind: dict[str, Any], name: str, record: dict[str, Any]) -> dict[str, Any]:
        self.record(operation, **record)
        if name in kind:
            raise refusal("ValidationException", operation, f"Cannot create already existing {name}")
        kind[name] = record
        return {}

    def _delete(self, operation: str, kind: dict[str, Any], name: str) -> dict[str, Any]:
        self.record(operation, name=name)
        if name not in kind:
            raise refusal("ValidationException", operation, f"Could not find {name}")
        del kind[name]
        return {}
