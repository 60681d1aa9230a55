"""Custom resource: proof that a model answers its sample as expected on a SageMaker endpoint, which is then gone."""

import json
import logging
import re
import tempfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from botocore.exceptions import ClientError

from edge_handlers.answering import answering
from edge_handlers.custom_resource import (
    Contract,
    Key,
    Properties,
    RequestType,
    begun_name,
    content_name,
    number,
    parse,
)
from edge_handlers.model_archive import fetch, pack
from edge_handlers.s3_objects import (
    ObjectStore,
    S3Location,
    check_job,
    check_own,
    compiled_of,
    sha256_of,
    source_of,
    uri,
)
from edge_handlers.service_client import (
    THROTTLED,
    AwsCallError,
    client,
    describe,
    explaining,
    ignoring,
    is_passing,
    settling,
    unless_absent,
)

LOG = logging.getLogger(__name__)
BUSY = ("Creating", "Updating", "SystemUpdating", "RollingBack", "Deleting")
VARIANT = "only"
#: What Triton calls the model.
MODEL = "model"
#: Where Neo's image looks for its entry point, and how it is told ("Prerequisites" of Neo's hosting, SageMaker
#: Developer Guide; `MMS_DEFAULT_RESPONSE_TIMEOUT` is that guide's too).
ENTRY_POINT = "code/inference.py"
NEO_ENVIRONMENT = {
    "SAGEMAKER_PROGRAM": "inference.py",
    "SAGEMAKER_SUBMIT_DIRECTORY": "/opt/ml/model/code",
    "MMS_DEFAULT_RESPONSE_TIMEOUT": "500",
}
NEO_FRAMEWORKS = ("PYTORCH",)
#: Read, never imported: it is the image that has what it needs.
_ENTRY = Path(__file__).with_name("neo_serving.py")
NAME_PATTERN = re.compile(r"(?=.{1,63}\Z)[a-zA-Z0-9](-*[a-zA-Z0-9]){0,62}")
#: Kinds of SageMaker's instances with them (EC2 User Guide, Instance store volumes).
_LOCAL_DISKS = re.compile(r".*dn?|(g[5-9]|p[4-9]).*|trn\d.*|dl1")
DIFFERENCES_SHOWN = 3
LOG_DAYS = 30


class VerificationError(RuntimeError):
    """The model does not answer its sample as expected, or the endpoint did not come up."""


@dataclass(frozen=True, kw_only=True)
class Verification(Contract):
    """What to verify.

    Args:
        model: The model's name: only its own objects are read and written.
        prefix: `edgewright-<stage>-<model>`; the endpoint's name adds 12 hexadecimal digits.
        role_arn: The SageMaker execution role.
        model_uri: The archive with the ONNX model to verify.
        sample_uri: JSON with `inputs` and `outputs`: name to shape, datatype and data.
        output_uri: Prefix for the server's form of the model.
        image: URI of the server's image.
        instance_type: Of the endpoint.
        tolerance: Largest difference of a value that is still right.
        framework: Of the model that Neo compiled, for Neo's image of it; None for an ONNX model and Triton.
        kms_key_id: Encrypts what is written; None for the bucket's default.
    """

    TYPE = "Custom::ModelVerification"

    model: Annotated[str, Key("Model")]
    prefix: Annotated[str, Key("NamePrefix")]
    role_arn: Annotated[str, Key("RoleArn")]
    model_uri: Annotated[str, uri("ModelUri")]
    sample_uri: Annotated[str, uri("SampleUri")]
    output_uri: Annotated[str, uri("OutputUri", "/")]
    image: Annotated[str, Key("Image")]
    instance_type: Annotated[str, Key("InstanceType")]
    tolerance: Annotated[float, number("Tolerance", minimum=0)]
    framework: Annotated[str | None, Key("Framework")] = None
    kms_key_id: Annotated[str | None, Key("KmsKeyId")] = None

    def check(self, properties: Properties) -> None:
        """Refuse another model's name, objects and place, and a framework that no image serves."""
        if self.framework not in (None, *NEO_FRAMEWORKS):
            raise ValueError(
                f"{properties.where}.{self.key('framework')} must be one of {', '.join(NEO_FRAMEWORKS)}, or left out, "
                f"got {self.framework!r}"
            )
        check_job(f"{properties.where}.{self.key('prefix')}", self.prefix, self.model)
        sources = source_of(self.model)
        check_own(f"{properties.where}.{self.key('model_uri')}", self.model_uri, sources, compiled_of(self.prefix))
        check_own(f"{properties.where}.{self.key('sample_uri')}", self.sample_uri, sources)
        check_own(
            f"{properties.where}.{self.key('output_uri')}", self.output_uri, rf"verification/{re.escape(self.model)}"
        )

    @property
    def name(self) -> str:
        """Of model, configuration and endpoint alike: the same for the same model, sample and server."""
        told = [self.model_uri, self.sample_uri, self.image, self.instance_type, self.tolerance]
        return content_name(self.prefix, [*told, *([self.framework] if self.framework else [])])

    @property
    def archive(self) -> S3Location:
        """Where the server's form of the model lies."""
        output = S3Location.parse(self.output_uri)
        return S3Location(output.bucket, f"{output.key}/{self.name}/model.tar.gz")


def on_event(event: dict[str, Any], context: Any) -> dict[str, Any]:  # noqa: ARG001 (Lambda's signature)
    """Create and Update start the endpoint, Delete begins to take it away; is_complete finishes both."""
    request = parse(event)
    if request.type is RequestType.DELETE:
        end_of_logs(begun_name(request, Verification.of), client("logs"))
        remove(begun_name(request, Verification.of), client("sagemaker"))
        return {"PhysicalResourceId": request.known_id}
    verification = Verification.of(request.properties)
    try:
        start(verification, client("sagemaker"), client("s3"))
    except Exception:
        # CloudFormation deletes nothing whose creation failed at once: the instance type may have no quota, and model
        # and configuration would stay.
        with suppress(AwsCallError):
            remove(verification.name, client("sagemaker"))
        raise
    return {"PhysicalResourceId": verification.name}


def is_complete(event: dict[str, Any], context: Any) -> dict[str, Any]:  # noqa: ARG001 (Lambda's signature)
    """Answer one poll: whether the sample is answered (Create, Update) or the endpoint is gone (Delete)."""
    request = parse(event)
    if request.type is RequestType.DELETE:
        return {"IsComplete": remove(begun_name(request, Verification.of), client("sagemaker"))}
    verification = Verification.of(request.properties)
    try:
        return follow(verification, client("sagemaker"), client("sagemaker-runtime"), client("s3"))
    finally:
        end_of_logs(verification.name, client("logs"))


def start(verification: Verification, sagemaker: Any, s3: Any) -> None:
    """Make the model, its endpoint configuration and the endpoint; what is there already stays.

    Raises:
        VerificationError: The archive holds no ONNX model.
        AwsCallError: AWS refused a call.
    """
    name = verification.name
    with explaining(f"start endpoint {name}"):
        found = _endpoint(name, sagemaker)
        if found is not None and found["EndpointStatus"] not in ("Failed", "Deleting"):
            return
    store_served_model(verification, s3)
    container = {
        "Image": verification.image,
        "ModelDataUrl": str(verification.archive),
        "Environment": NEO_ENVIRONMENT if verification.framework else {"SAGEMAKER_TRITON_DEFAULT_MODEL_NAME": MODEL},
    }
    variant = {
        "VariantName": VARIANT,
        "ModelName": name,
        "InstanceType": verification.instance_type,
        "InitialInstanceCount": 1,
    }
    key = {"KmsKeyId": verification.kms_key_id} if _has_volume(verification) else {}
    with explaining(f"start endpoint {name}"):
        _unless_there(
            sagemaker.create_model,
            ModelName=name,
            PrimaryContainer=container,
            ExecutionRoleArn=verification.role_arn,
            EnableNetworkIsolation=True,
        )
        _unless_there(sagemaker.create_endpoint_config, EndpointConfigName=name, ProductionVariants=[variant], **key)
        _unless_there(sagemaker.create_endpoint, EndpointName=name, EndpointConfigName=name)


def follow(verification: Verification, sagemaker: Any, runtime: Any, s3: Any) -> dict[str, Any]:
    """Look once how far the endpoint is; when it serves, ask it the sample and take it away.

    Returns:
        What `answering` sends: IsComplete and, when it is, Data EndpointName.

    Raises:
        VerificationError: The endpoint failed (with SageMaker's reason) or is gone, or an answer differs.
        AwsCallError: AWS refused a call.
    """
    name = verification.name
    with explaining(f"describe endpoint {name}"):
        found = _endpoint(name, sagemaker)
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
    except Exception as exc:
        if not is_passing(exc):
            remove(name, sagemaker)
        raise
    remove(name, sagemaker)
    if wrong:
        more = f", and {len(wrong) - DIFFERENCES_SHOWN} more" if len(wrong) > DIFFERENCES_SHOWN else ""
        raise VerificationError(
            f"verify: model {verification.model_uri} does not answer its sample as expected: "
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
        found = _endpoint(name, sagemaker)
        if found is not None and found["EndpointStatus"] in BUSY:
            return False
        if found is not None:
            with unless_absent():
                sagemaker.delete_endpoint(EndpointName=name)
        with unless_absent():
            sagemaker.delete_endpoint_config(EndpointConfigName=name)
        with unless_absent():
            sagemaker.delete_model(ModelName=name)
        return found is None


def end_of_logs(name: str, logs: Any) -> None:
    """Let what an endpoint has written be deleted after a month; SageMaker makes its log group, and keeps it for ever.

    Args:
        name: The endpoint's; what cannot be a name of SageMaker's has no logs.
        logs: A boto3 CloudWatch Logs client.
    """
    if NAME_PATTERN.fullmatch(name):
        # Another change of the group is under way, or too many are: it is asked for again, and no reason to fail.
        busy = ignoring("OperationAbortedException", *THROTTLED)
        with explaining(f"limit the logs of endpoint {name}"), busy, unless_absent():
            logs.put_retention_policy(logGroupName=f"/aws/sagemaker/Endpoints/{name}", retentionInDays=LOG_DAYS)


def _endpoint(name: str, sagemaker: Any) -> dict[str, Any] | None:
    return describe(sagemaker.describe_endpoint, EndpointName=name)


def _ask(verification: Verification, runtime: Any, s3: Any) -> list[str]:
    place = S3Location.parse(verification.sample_uri)
    sample = ObjectStore(s3, place.bucket, None).get_bytes(place.key)
    if sample is None:
        raise VerificationError(f"verify: the sample {place} is missing; deploy again")
    told = json.loads(sample)
    body = json.dumps({"inputs": told["inputs"]}).encode()
    kind = "application/json" if verification.framework else "application/octet-stream"
    with explaining(f"invoke endpoint {verification.name}"):
        answer = runtime.invoke_endpoint(EndpointName=verification.name, ContentType=kind, Body=body)["Body"].read()
    outputs = json.loads(answer).get("outputs", [])
    if verification.framework and len(outputs) == len(told["outputs"]):
        # PyTorch's outputs have an order and no names.
        outputs = [{**got, "name": wanted["name"]} for got, wanted in zip(outputs, told["outputs"], strict=True)]
    return list(differences(told["outputs"], outputs, verification.tolerance))


def _has_volume(verification: Verification) -> bool:
    """Whether there is a volume that a key encrypts: a disk of the instance's own has a key of its own."""
    family = verification.instance_type.split(".")[1]
    return verification.kms_key_id is not None and not _LOCAL_DISKS.fullmatch(family)


def _unless_there(call: Callable[..., Any], **arguments: Any) -> None:
    def make() -> None:
        try:
            call(**arguments)
        except ClientError as exc:
            if "already exist" not in str(exc):
                raise

    # A role, a model or a configuration made a moment ago is not known everywhere yet (API reference, CreateEndpoint).
    settling(make, "ValidationException")


def store_served_model(verification: Verification, s3: Any) -> None:
    """Write the model in the form that its server wants, unless it lies there already.

    For Triton that is a folder a version; for Neo's image all that Neo made, and the image's entry point.

    Raises:
        VerificationError: The archive does not hold exactly one ONNX model, where Triton is to serve it.
        ArchiveError: It is damaged.
        AwsCallError: S3 refused a call.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        source = S3Location.parse(verification.model_uri)
        files = fetch(source, folder / "in", s3)
        archive = folder / "model.tar.gz"
        models = [file for file in files if file.endswith(".onnx")]
        if verification.framework:
            pack({**{name: folder / "in" / name for name in files}, ENTRY_POINT: _ENTRY}, archive)
        elif len(models) != 1:
            raise VerificationError(
                f"verify: {source} must hold exactly one .onnx file, got {models or 'none'}: "
                "only ONNX models can be verified on an endpoint"
            )
        else:
            pack({f"{MODEL}/1/model.onnx": folder / "in" / models[0]}, archive)
        place = verification.archive
        store = ObjectStore(s3, place.bucket, verification.kms_key_id)
        store.put_file(place.key, archive, sha256_of(archive), "application/gzip")


def differences(expected: list[dict[str, Any]], answered: list[dict[str, Any]], tolerance: float) -> Iterator[str]:
    """Compare tensors in the form of the inference protocol: name, shape, data.

    Args:
        expected: The sample's outputs.
        answered: The endpoint's.
        tolerance: Largest difference of a value that is still right.

    Yields:
        One sentence for each difference.
    """
    found = {tensor.get("name"): tensor for tensor in answered}
    for tensor in expected:
        name = tensor["name"]
        if name not in found:
            yield f"output {name} is missing, got {sorted(map(str, found)) or 'none'}"
            continue
        wanted, got = tensor["data"], found[name].get("data", [])
        if list(found[name].get("shape", [])) != list(tensor["shape"]) or len(wanted) != len(got):
            yield f"output {name} must have shape {tensor['shape']}, got {found[name].get('shape')}"
            continue
        for place, (value, other) in enumerate(zip(wanted, got, strict=True)):
            # Written so that a value that is no number is a difference.
            if not abs(value - other) <= tolerance:
                yield f"{name}[{place}] must be {value} ± {tolerance}, got {other}"


handler = answering(on_event, is_complete)
