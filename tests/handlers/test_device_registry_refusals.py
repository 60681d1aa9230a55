"""Every call of the device registry, refused: the error says what was being done, the same event succeeds later."""

import pytest

from edge_handlers.service_client import AwsCallError
from tests.handlers.fake_greengrass import FakeGreengrass
from tests.handlers.fake_iot import FakeIot
from tests.handlers.fake_s3 import FakeS3
from tests.handlers.fake_service import FakeService
from tests.handlers.registry_events import GROUP, ID, Registry

REGISTER = (
    "list_things",
    "list_things_in_thing_group",
    "describe_thing",
    "create_thing",
    "update_thing",
    "add_thing_to_thing_group",
    "remove_thing_from_thing_group",
)
REMOVE = (
    "list_things",
    "list_things_in_thing_group",
    "describe_thing",
    "list_thing_principals",
    "list_principal_things",
    "list_attached_policies",
    "detach_policy",
    "update_certificate",
    "detach_thing_principal",
    "delete_certificate",
    "list_thing_groups_for_thing",
    "remove_thing_from_thing_group",
    "delete_thing",
    "list_targets_for_policy",
)


@pytest.fixture
def services(s3: FakeS3, iot: FakeIot, greengrass: FakeGreengrass) -> dict[str, FakeService]:
    """An account in which both events have something to do: one thing of nobody, in the wrong ring."""
    iot.things["line-1"] = {"attributes": {}}
    iot.groups[f"{GROUP}-early"] = {"line-1"}
    return {"s3": s3, "iot": iot, "greengrassv2": greengrass}


@pytest.mark.parametrize("code", ["ThrottlingException", "AccessDeniedException"])
@pytest.mark.parametrize(("service", "call"), [("s3", "get_object"), *(("iot", call) for call in REGISTER)])
def test_a_refused_call_of_a_create(services: dict[str, FakeService], service: str, call: str, code: str) -> None:
    registry = Registry(services["s3"])  # type: ignore[arg-type]
    services[service].refuse(call, code)

    with pytest.raises(AwsCallError, match=rf"^cannot \w+ .+: .*{code}"):
        registry.create()

    assert registry.create()["PhysicalResourceId"] == ID


@pytest.mark.parametrize("code", ["ThrottlingException", "AccessDeniedException"])
@pytest.mark.parametrize(
    ("service", "call"), [*(("iot", call) for call in REMOVE), ("greengrassv2", "delete_core_device")]
)
def test_a_refused_call_of_a_delete(
    services: dict[str, FakeService], iot: FakeIot, greengrass: FakeGreengrass, service: str, call: str, code: str
) -> None:
    registry = Registry(services["s3"])  # type: ignore[arg-type]
    registry.create({"line-2": "all"})
    iot.provision("one", "line-2")
    greengrass.core_devices = {"line-2"}
    services[service].refuse(call, code)

    with pytest.raises(AwsCallError, match=rf"^cannot \w+ .+: .*{code}"):
        registry.delete()

    assert registry.delete()["PhysicalResourceId"] == ID
    assert "line-2" not in iot.things
