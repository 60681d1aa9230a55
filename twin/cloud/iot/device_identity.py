"""Who a device is: its client certificate, the things it stands for, and what its IoT policies allow."""

from __future__ import annotations

import asyncio
import hashlib
from dataclasses import dataclass

from ministack import app
from ministack.core.iam_evaluator import EvalContext, evaluate
from ministack.core.responses import request_scope
from ministack.services import iot


@dataclass(frozen=True)
class DeviceIdentity:
    """An active device certificate of one account and region.

    Args:
        account: Account that registered it.
        region: Region that registered it.
        certificate_id: SHA-256 of the certificate in hex, as IoT names it.
    """

    account: str
    region: str
    certificate_id: str

    def things(self) -> list[str]:
        """Names of the things that the certificate is attached to."""
        with request_scope(self.account, self.region):
            record = iot._certificates.get(self.certificate_id) or {}
            return [iot._thing_name_from_arn(arn) for arn in record.get("attachedThings", [])]

    def allows(self, action: str, resource_arn: str, thing: str | None = None) -> bool:
        """Whether the certificate's IoT policies allow an action; always, where the twin runs without AUTH=true.

        Args:
            action: For instance `greengrass:ResolveComponentCandidates`.
            resource_arn: What it is done to.
            thing: The thing it acts as; fills the policy variable `${iot:Connection.Thing.ThingName}`.
        """
        if not app.AUTH:
            return True
        variables = iot._mqtt_policy_context(self.account, self.region, self.certificate_id, thing or "")
        with request_scope(self.account, self.region):
            record = iot._certificates.get(self.certificate_id) or {}
            policies = [iot._policies.get(name) for name in record.get("attachedPolicies", [])]
        documents = [policy["versions"][policy["defaultVersionId"]]["document"] for policy in policies if policy]
        context = EvalContext(
            principal_arn=f"arn:aws:iot:{self.region}:{self.account}:cert/{self.certificate_id}",
            principal_type="Certificate",
            principal_account=self.account,
            action=action,
            resource_arn=resource_arn,
            region=self.region,
            service_context=variables,
        )
        values = tuple(sorted(variables.items()))
        decision: str = evaluate(context, [iot._parsed_iot_policy(text, values) for text in documents]).decision
        return decision == "Allow"


def identify(writer: asyncio.StreamWriter) -> DeviceIdentity | None:
    """The device at the other end of a TLS connection; None without a certificate, or with one that is not active."""
    ssl_object = writer.get_extra_info("ssl_object")
    certificate = ssl_object.getpeercert(binary_form=True) if ssl_object is not None else None
    if not certificate:
        return None
    owner = iot._mtls_resolve_identity(certificate)
    if owner is None or owner[2] is not None:  # a provisioning claim is no device yet
        return None
    return DeviceIdentity(owner[0], owner[1], hashlib.sha256(certificate).hexdigest())
