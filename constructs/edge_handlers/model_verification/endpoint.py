"""Starts an endpoint, asks it once, and takes all of it away again.

Permissions (on_event and is_complete run with the same ones):
    sagemaker:CreateModel, DeleteModel                            model/<NamePrefix>-*
    sagemaker:CreateEndpointConfig, DeleteEndpointConfig          endpoint-config/<NamePrefix>-*
    sagemaker:CreateEndpoint, DescribeEndpoint, DeleteEndpoint, InvokeEndpoint
                                                                  endpoint/<NamePrefix>-* (CreateEndpoint: its
                                                                  configuration, too)
    iam:PassRole    the SageMaker execution role, condition iam:PassedToService = sagemaker.amazonaws.com
    s3:GetObject    `compiled/*`, `sources/<model>/*` and the sample; s3:PutObject `verification/*`; the bucket's key
"""

import json
import logging
from collections.abc import Callable
from typing import Any

from botocore.exceptions import ClientError

from edge_handlers.model_package.package_store import PackageStore
from edge_handlers.model_verification.served_model import MODEL, store_served_model
from edge_handlers.model_verification.verification import (
    DIFFERENCES_SHOWN,
    NAME_PATTERN,
    Verification,
    VerificationError,
    differences,
)
from edge_handlers.service_client import error_code, explaining, settling

LOG = logging.getLogger(__name__)
BUSY = ("Creating", "Updating", "SystemUpdating", "RollingBack", "Deleting")
VARIANT = "only"


def start(verification: Verification, sagemaker: Any, s3: Any) -> None:
    """Make the model, its endpoint configuration and the endpoint; what is there already stays.

    Raises:
        VerificationError: The archive holds no ONNX model.
        AwsCallError: AWS refused a call.
    """
    name = verification.name
    with explaining(f"start endpoint {name}"):
        found = describe(name, sagemaker)
        if found is not None and found["EndpointStatus"] not in ("Failed", "Deleting"):
            return
    store_served_model(verification, s3)
    container = {
        "Image": verification.image,
        "ModelDataUrl": str(verification.archive),
        "Environment": {"SAGEMAKER_TRITON_DEFAULT_MODEL_NAME": MODEL},
    }
    variant = {
        "VariantName": VARIANT,
        "ModelName": name,
        "InstanceType": verification.instance_type,
        "InitialInstanceCount": 1,
    }
    key = {"KmsKeyId": verification.kms_key_id} if _has_volume(verification) else {}
    with explaining(f"start endpoint {name}"):
        # A role made seconds ago cannot be assumed everywhere yet; SageMaker says so by a ValidationException.
        settling(
            lambda: _unless_there(
                sagemaker.create_model,
                ModelName=name,
                PrimaryContainer=container,
                ExecutionRoleArn=verification.role_arn,
                EnableNetworkIsolation=True,
            ),
            "ValidationException",
        )
        _unless_there(sagemaker.create_endpoint_config, EndpointConfigName=name, ProductionVariants=[variant], **key)
        _unless_there(sagemaker.create_endpoint, EndpointName=name, EndpointConfigName=name)


def follow(verification: Verification, sagemaker: Any, runtime: Any, s3: Any) -> dict[str, Any]:
    """Look once how far the endpoint is; when it serves, ask it the sample and take it away.

    Returns:
        The answer to the Provider framework: IsComplete and, when it is, Data EndpointName.

    Raises:
        VerificationError: The endpoint failed (with SageMaker's reason) or is gone, or an answer differs.
        AwsCallError: AWS refused a call.
    """
    name = verification.name
    with explaining(f"describe endpoint {name}"):
        found = describe(name, sagemaker)
    if found is None:
        raise VerificationError(f"endpoint {name} was deleted while the stack waited for it; deploy again")
    status = found["EndpointStatus"]
    if status == "Failed":
        remove(name, sagemaker)
        reason = found.get("FailureReason") or "SageMaker gave no reason"
        raise VerificationError(f"endpoint {name} failed: {reason}")
    if status != "InService":
        return {"IsComplete": False}
    try:
        wrong = _ask(verification, runtime, s3)
    finally:
        remove(name, sagemaker)
    if wrong:
        more = f", and {len(wrong) - DIFFERENCES_SHOWN} more" if len(wrong) > DIFFERENCES_SHOWN else ""
        raise VerificationError(
            f"verify: model {verification.model} does not answer its sample as expected: "
            f"{'; '.join(wrong[:DIFFERENCES_SHOWN])}{more}"
        )
    LOG.info("endpoint %s answered as expected", name)
    return {"IsComplete": True, "Data": {"EndpointName": name}}


def remove(name: str, sagemaker: Any) -> bool:
    """Go one step towards nothing being left; repeat until True.

    Args:
        name: The resource's id; what cannot be a name of SageMaker's is gone.
        sagemaker: A boto3 SageMaker client.

    Returns:
        Whether nothing is left.
    """
    if not NAME_PATTERN.fullmatch(name):
        return True
    with explaining(f"delete endpoint {name}"):
        found = describe(name, sagemaker)
        if found is not None and found["EndpointStatus"] in BUSY:
            return False
        if found is not None:
            _unless_absent(sagemaker.delete_endpoint, EndpointName=name)
        _unless_absent(sagemaker.delete_endpoint_config, EndpointConfigName=name)
        _unless_absent(sagemaker.delete_model, ModelName=name)
        return found is None


def describe(name: str, sagemaker: Any) -> dict[str, Any] | None:
    """Return DescribeEndpoint's answer, or None where there is none."""
    try:
        answer: dict[str, Any] = sagemaker.describe_endpoint(EndpointName=name)
    except ClientError as exc:
        if _is_absent(exc):
            return None
        raise
    return answer


def _ask(verification: Verification, runtime: Any, s3: Any) -> list[str]:
    sample = PackageStore(s3, verification.sample.bucket, None).get_bytes(verification.sample.key)
    if sample is None:
        raise VerificationError(f"verify: the sample {verification.sample} is missing; deploy again")
    told = json.loads(sample)
    body = json.dumps({"inputs": told["inputs"]}).encode()
    with explaining(f"invoke endpoint {verification.name}"):
        answer = runtime.invoke_endpoint(
            EndpointName=verification.name, ContentType="application/octet-stream", Body=body
        )["Body"].read()
    return list(differences(told["outputs"], json.loads(answer).get("outputs", []), verification.tolerance))


def _has_volume(verification: Verification) -> bool:
    """Instances with local storage (a d after the generation, and g4dn) refuse a key for their volume."""
    family = verification.instance_type.split(".")[1]
    return verification.kms_key_id is not None and not family.endswith(("d", "dn"))


def _unless_there(call: Callable[..., Any], **arguments: Any) -> None:
    try:
        call(**arguments)
    except ClientError as exc:
        if "already exist" not in str(exc):
            raise


def _unless_absent(call: Callable[..., Any], **arguments: Any) -> None:
    try:
        call(**arguments)
    except ClientError as exc:
        if not _is_absent(exc):
            raise


def _is_absent(error: ClientError) -> bool:
    """SageMaker says "no such endpoint" by a ValidationException."""
    return error_code(error) in ("ResourceNotFound", "ValidationException") and "could not find" in str(error).lower()
