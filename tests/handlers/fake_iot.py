"""IoT Core's registry in memory, with the orders that the real one insists on."""

from datetime import UTC, datetime
from typing import Any

from tests.handlers.fake_service import FakeService, refusal

#: When every certificate was made.
JOINED_AT = datetime(2026, 11, 29, 12, tzinfo=UTC)
#: Attributes of a thing without a type (IoT Developer Guide, Thing types).
MOST_OF_UNTYPED = 3
CERTIFICATE = "arn:aws:iot:eu-west-1:111122223333:cert/"


class FakeIot(FakeService):
    """Things, groups, certificates and policies."""

    PAGES = {  # noqa: RUF012
        "list_thing_principals": ("principals",),
        "list_principal_things": ("things",),
        "list_attached_policies": ("policies",),
        "list_targets_for_policy": ("targets",),
        "list_thing_groups_for_thing": ("thingGroups",),
        "list_things": ("things",),
        "list_things_in_thing_group": ("things",),
        "list_thing_groups": ("thingGroups",),
    }

    def __init__(self) -> None:
        super().__init__()
        self.things: dict[str, dict[str, Any]] = {}
        self.versions: dict[str, int] = {}  # of things that were changed
        self.deprecated: set[str] = set()  # thing types
        self.groups: dict[str, set[str]] = {
            f"edgewright-{name}": set() for name in ("dev", "dev-canary", "dev-early", "lab", "lab-canary", "lab-early")
        }
        self.certificates: dict[str, str] = {}  # ARN → status
        self.attached: set[tuple[str, str]] = set()  # thing, principal
        self.exclusive: set[str] = set()  # principals that are of one thing alone
        self.indexing: dict[str, Any] = {"thingIndexingConfiguration": {"thingIndexingMode": "OFF"}}
        self.policies: dict[str, set[str]] = {"edgewright-dev-core-device": set()}  # name → targets

    def provision(self, name: str, *things: str, policy: str = "edgewright-dev-core-device") -> str:
        """An active certificate with the policy, attached to things; returns its ARN."""
        arn = CERTIFICATE + name
        self.certificates[arn] = "ACTIVE"
        self.policies.setdefault(policy, set()).add(arn)
        self.attached |= {(thing, arn) for thing in things}
        return arn

    def lose_certificate(self, arn: str) -> None:
        """Somebody else deletes a certificate by force."""
        self.certificates.pop(arn)
        self.attached = {(thing, principal) for thing, principal in self.attached if principal != arn}
        for targets in self.policies.values():
            targets.discard(arn)

    def lose_thing(self, name: str) -> None:
        """Somebody else deletes a thing."""
        self.things.pop(name)
        self.attached = {(thing, principal) for thing, principal in self.attached if thing != name}

    def create_thing(
        self,
        thingName: str,  # noqa: N803
        thingTypeName: str,  # noqa: N803
        attributePayload: dict[str, Any],  # noqa: N803
    ) -> dict[str, Any]:
        self.record("create_thing", thingName=thingName)
        made = {"thingTypeName": thingTypeName, "attributes": dict(attributePayload["attributes"])}
        # The call may be repeated; another thing of the name is refused (IoT API Reference, CreateThing).
        if self.things.setdefault(thingName, made) != made:
            raise refusal("ResourceAlreadyExistsException", "CreateThing")
        return {}

    def describe_thing(self, thingName: str) -> dict[str, Any]:  # noqa: N803
        self.record("describe_thing", thingName=thingName)
        return {**self._thing(thingName, "DescribeThing"), "version": self.versions.get(thingName, 1)}

    def update_thing(
        self,
        thingName: str,  # noqa: N803
        attributePayload: dict[str, Any],  # noqa: N803
        thingTypeName: str = "",  # noqa: N803
        removeThingType: bool = False,  # noqa: N803
        expectedVersion: int | None = None,  # noqa: N803
    ) -> dict[str, Any]:
        self.record("update_thing", thingName=thingName)
        thing = self._thing(thingName, "UpdateThing")
        version = self.versions.get(thingName, 1)
        if expectedVersion not in (None, version):
            raise refusal("VersionConflictException", "UpdateThing")
        kept = thing["attributes"] if attributePayload.get("merge") else {}
        attributes = {name: value for name, value in {**kept, **attributePayload["attributes"]}.items() if value}
        of_type = thingTypeName if thingTypeName or removeThingType else thing.get("thingTypeName", "")
        if thingTypeName in self.deprecated or (not of_type and len(attributes) > MOST_OF_UNTYPED):
            raise refusal("InvalidRequestException", "UpdateThing")
        self.versions[thingName] = version + 1
        thing.update(thingTypeName=of_type, attributes=attributes)
        return {}

    def list_things(self, attributeName: str, attributeValue: str) -> dict[str, Any]:  # noqa: N803
        self.record("list_things", attributeName=attributeName, attributeValue=attributeValue)
        found = [
            {"thingName": name, "thingTypeName": thing.get("thingTypeName"), "attributes": dict(thing["attributes"])}
            for name, thing in self.things.items()
            if thing["attributes"].get(attributeName) == attributeValue
        ]
        return {"things": found}

    def list_things_in_thing_group(self, thingGroupName: str) -> dict[str, Any]:  # noqa: N803
        self.record("list_things_in_thing_group", thingGroupName=thingGroupName)
        if thingGroupName not in self.groups:
            raise refusal("ResourceNotFoundException", "ListThingsInThingGroup")
        return {"things": sorted(self.groups[thingGroupName])}

    def delete_thing(self, thingName: str) -> dict[str, Any]:  # noqa: N803
        self.record("delete_thing", thingName=thingName)
        if any(thing == thingName for thing, _ in self.attached):
            raise refusal("InvalidRequestException", "DeleteThing", "Thing has principals attached.")
        self.things.pop(thingName, None)  # the real one succeeds where there is no such thing
        for members in self.groups.values():
            members.discard(thingName)
        return {}

    def add_thing_to_thing_group(self, thingGroupName: str, thingName: str) -> dict[str, Any]:  # noqa: N803
        self.record("add_thing_to_thing_group", thingGroupName=thingGroupName, thingName=thingName)
        self._thing(thingName, "AddThingToThingGroup")
        if thingGroupName not in self.groups:
            raise refusal("ResourceNotFoundException", "AddThingToThingGroup", f"group {thingGroupName}")
        self.groups[thingGroupName].add(thingName)
        return {}

    def remove_thing_from_thing_group(self, thingGroupName: str, thingName: str) -> dict[str, Any]:  # noqa: N803
        self.record("remove_thing_from_thing_group", thingGroupName=thingGroupName, thingName=thingName)
        self._thing(thingName, "RemoveThingFromThingGroup")
        if thingGroupName not in self.groups:
            raise refusal("ResourceNotFoundException", "RemoveThingFromThingGroup")
        self.groups[thingGroupName].discard(thingName)
        return {}

    def list_thing_groups_for_thing(self, thingName: str) -> dict[str, Any]:  # noqa: N803
        self.record("list_thing_groups_for_thing", thingName=thingName)
        self._thing(thingName, "ListThingGroupsForThing")
        return {"thingGroups": [{"groupName": name} for name, things in self.groups.items() if thingName in things]}

    def list_thing_groups(self, namePrefixFilter: str) -> dict[str, Any]:  # noqa: N803
        self.record("list_thing_groups", namePrefixFilter=namePrefixFilter)
        return {"thingGroups": [{"groupName": name} for name in self.groups if name.startswith(namePrefixFilter)]}

    def get_indexing_configuration(self) -> dict[str, Any]:
        self.record("get_indexing_configuration")
        return self.indexing

    def update_indexing_configuration(self, **configuration: Any) -> dict[str, Any]:
        self.record("update_indexing_configuration", **configuration)
        self.indexing.update(configuration)
        return {}

    def list_thing_principals(self, thingName: str, maxResults: int = 25) -> dict[str, Any]:  # noqa: N803
        self.record("list_thing_principals", thingName=thingName)
        self._thing(thingName, "ListThingPrincipals")
        return {"principals": sorted(cert for thing, cert in self.attached if thing == thingName)[:maxResults]}

    def list_principal_things(self, principal: str, maxResults: int = 25) -> dict[str, Any]:  # noqa: N803
        self.record("list_principal_things", principal=principal)
        return {"things": sorted(thing for thing, attached in self.attached if attached == principal)[:maxResults]}

    def attach_thing_principal(
        self,
        thingName: str,  # noqa: N803
        principal: str,
        thingPrincipalType: str = "NON_EXCLUSIVE_THING",  # noqa: N803
    ) -> dict[str, Any]:
        self.record("attach_thing_principal", thingName=thingName, principal=principal)
        self._thing(thingName, "AttachThingPrincipal")
        if thingPrincipalType == "EXCLUSIVE_THING":
            self.exclusive.add(principal)
        self.attached.add((thingName, principal))
        return {}

    def attach_policy(self, policyName: str, target: str) -> dict[str, Any]:  # noqa: N803
        self.record("attach_policy", policyName=policyName, target=target)
        self._certificate(target, "AttachPolicy")
        if policyName not in self.policies:
            raise refusal("ResourceNotFoundException", "AttachPolicy")
        self.policies[policyName].add(target)
        return {}

    def describe_endpoint(self, endpointType: str) -> dict[str, Any]:  # noqa: N803
        self.record("describe_endpoint", endpointType=endpointType)
        return {"endpointAddress": f"{endpointType.rpartition(':')[2].lower()}.example"}

    def create_certificate_from_csr(
        self,
        certificateSigningRequest: str,  # noqa: N803
        setAsActive: bool,  # noqa: N803
    ) -> dict[str, Any]:
        self.record("create_certificate_from_csr", setAsActive=setAsActive)
        name = f"{len(self.calls):04d}{abs(hash(certificateSigningRequest)) % 16**8:08x}"
        self.certificates[CERTIFICATE + name] = "ACTIVE" if setAsActive else "INACTIVE"
        return {"certificateArn": CERTIFICATE + name, "certificateId": name, "certificatePem": "the certificate"}

    def describe_certificate(self, certificateId: str) -> dict[str, Any]:  # noqa: N803
        self.record("describe_certificate", certificateId=certificateId)
        status = self._certificate(CERTIFICATE + certificateId, "DescribeCertificate")
        return {"certificateDescription": {"status": status, "creationDate": JOINED_AT}}

    def detach_thing_principal(self, thingName: str, principal: str) -> dict[str, Any]:  # noqa: N803
        self.record("detach_thing_principal", thingName=thingName, principal=principal)
        self._thing(thingName, "DetachThingPrincipal")
        self.attached.discard((thingName, principal))
        return {}

    def list_attached_policies(self, target: str) -> dict[str, Any]:
        self.record("list_attached_policies", target=target)
        self._certificate(target, "ListAttachedPolicies")
        return {"policies": [{"policyName": name} for name, on in self.policies.items() if target in on]}

    def list_targets_for_policy(self, policyName: str) -> dict[str, Any]:  # noqa: N803
        self.record("list_targets_for_policy", policyName=policyName)
        if policyName not in self.policies:
            raise refusal("ResourceNotFoundException", "ListTargetsForPolicy")
        return {"targets": sorted(self.policies[policyName])}

    def detach_policy(self, policyName: str, target: str) -> dict[str, Any]:  # noqa: N803
        self.record("detach_policy", policyName=policyName, target=target)
        self._certificate(target, "DetachPolicy")
        self.policies.get(policyName, set()).discard(target)
        return {}

    def update_certificate(self, certificateId: str, newStatus: str) -> dict[str, Any]:  # noqa: N803
        self.record("update_certificate", certificateId=certificateId, newStatus=newStatus)
        self._certificate(CERTIFICATE + certificateId, "UpdateCertificate")
        self.certificates[CERTIFICATE + certificateId] = newStatus
        return {}

    def delete_certificate(self, certificateId: str, forceDelete: bool) -> dict[str, Any]:  # noqa: N803
        self.record("delete_certificate", certificateId=certificateId, forceDelete=forceDelete)
        arn = CERTIFICATE + certificateId
        if self._certificate(arn, "DeleteCertificate") == "ACTIVE":
            raise refusal("CertificateStateException", "DeleteCertificate")
        used = any(arn in targets for targets in self.policies.values())
        if used or any(principal == arn for _, principal in self.attached):
            raise refusal("DeleteConflictException", "DeleteCertificate")
        del self.certificates[arn]
        return {}

    def _thing(self, name: str, operation: str) -> dict[str, Any]:
        if name not in self.things:
            raise refusal("ResourceNotFoundException", operation, f"thing {name}")
        thing: dict[str, Any] = self.things[name]
        return thing

    def _certificate(self, arn: str, operation: str) -> str:
        if arn not in self.certificates:
            raise refusal("ResourceNotFoundException", operation)
        return self.certificates[arn]
