"""Compilers, proof and packages of models: what becomes of a model's archive in the cloud."""

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from aws_cdk import CustomResource, Duration, Size
from constructs import Construct

from config.places import PROJECT
from edge_constructs.artifact_store import ArtifactBucket, SigningKey
from edge_constructs.edge_assets import compiler_python
from edge_constructs.handler_provider import HandlerProvider
from edge_constructs.permission import Permission, arn, pass_role
from edge_handlers import model_package, model_verification, onnx_compilation

#: The runtime's wheels unpacked (about 0.2 GB), the source and the result.
_COMPILER_DISK = Size.gibibytes(5)
#: ONNX Runtime holds the graph twice while it writes it.
MEMORY_MB = 3008


class OnnxCompiler(Construct):
    """Runs the devices' own ONNX Runtime over models; no SageMaker, no job to wait for.

    Args:
        scope: Parent construct.
        construct_id: Id below it.
        bucket: Holds sources and runtime, takes the results.
        runtime_uri: S3 URI of an archive with the wheels of numpy and ONNX Runtime for the function's Python.
        python: Version of the devices' interpreter, such as `3.11`; the function's follows from it.
        architecture: Of the wheels, as `uname -m` prints it.
        key_arn: Encrypts the results.
    """

    def __init__(
        self,
        scope: Construct,
        construct_id: str,
        *,
        bucket: ArtifactBucket,
        runtime_uri: str,
        python: str,
        architecture: str,
        key_arn: str,
    ) -> None:
        super().__init__(scope, construct_id)
        self._output_uri, self._runtime_uri, self._key_arn = f"s3://{bucket.name}/compiled", runtime_uri, key_arn
        self._provider = HandlerProvider(
            self,
            "Handler",
            handler=onnx_compilation,
            permissions=[
                *bucket.access(reads=("sources/", "artifacts/"), writes=("compiled/",)),
                bucket.listing(),
            ],
            limit=Duration.minutes(15),
            memory_mb=MEMORY_MB,
            disk=_COMPILER_DISK,
            python=compiler_python(python),
            architecture=architecture,
        )

    def compile(
        self,
        scope: Construct,
        construct_id: str,
        *,
        model: str,
        job: str,
        source_uri: str,
        input_shapes: Mapping[str, Sequence[int]],
    ) -> str:
        """Define the compilation of one model.

        Args:
            scope: Parent construct.
            construct_id: Id below it.
            model: The model's name.
            job: What the result's folder starts with.
            source_uri: S3 URI of the source archive.
            input_shapes: Name of each input to its shape.

        Returns:
            S3 URI of the artifact.
        """
        resource = self._provider.resource(
            scope,
            construct_id,
            onnx_compilation.OnnxCompilation(
                model=model,
                source_uri=source_uri,
                runtime_uri=self._runtime_uri,
                output_uri=self._output_uri,
                name=job,
                shapes=dict(input_shapes),
                kms_key_id=self._key_arn,
            ),
        )
        return resource.get_att_string("ArtifactUri")


#: The packer unpacks both archives and writes the package beside them.
DISK = Size.gibibytes(4)


class ModelPackager(Construct):
    """Packs compiled models, their sources' other files and manifests, each under a key that its content gives.

    Args:
        scope: Parent construct.
        construct_id: Id below it.
        bucket: Holds the inputs and takes the packages.
        key_arn: Encrypts the packages.
        signing_key: Signs the manifests.
    """

    def __init__(
        self, scope: Construct, construct_id: str, *, bucket: ArtifactBucket, key_arn: str, signing_key: SigningKey
    ) -> None:
        super().__init__(scope, construct_id)
        self._bucket, self._key_arn, self._signing_key = bucket, key_arn, signing_key
        self._provider = HandlerProvider(
            self,
            "Handler",
            handler=model_package,
            permissions=[
                *bucket.access(reads=("compiled/", "sources/"), writes=("models/",)),
                bucket.listing(),
                *signing_key.signing(),
            ],
            limit=Duration.minutes(10),
            memory_mb=1024,
            disk=DISK,
        )

    def pack(
        self,
        scope: Construct,
        construct_id: str,
        *,
        model: str,
        package: str,
        version: str,
        content: str,
        job: str,
        compiled_uri: str,
        source_uri: str,
        manifest: Mapping[str, Any],
    ) -> "ModelPackage":
        """Define the package of one model.

        Args:
            scope: Parent construct.
            construct_id: Id below it.
            model: The model's name.
            package: Name of the archive without `.zip`.
            version: The model component's version.
            content: Digest of all that the package is made of. It names the place, which is known before the deploy.
            job: What the folders of the model's compilations start with.
            compiled_uri: S3 URI of the compiler's artifact; empty where there is none.
            source_uri: S3 URI of the source archive.
            manifest: What devices must know of the model: inputs, outputs, labels, pre-processing.

        Returns:
            The package.
        """
        contract = model_package.ModelPackage(
            compiled_uri=compiled_uri,
            source_uri=source_uri,
            bucket=self._bucket.name,
            model=model,
            job=job,
            name=package,
            version=version,
            content=content,
            manifest=dict(manifest),
            kms_key_id=self._key_arn,
            signing_key_id=self._signing_key.arn,
        )
        return ModelPackage(scope, construct_id, provider=self._provider, contract=contract)


class ModelPackage(Construct):
    """One model's package.

    Args:
        scope: Parent construct.
        construct_id: Id below it.
        provider: Makes it.
        contract: What it is made of.

    Attributes:
        uri: Where it lies.
        public_key: Base64 of the DER form, as the inference component is told it; known at the deploy only.
    """

    def __init__(
        self,
        scope: Construct,
        construct_id: str,
        *,
        provider: HandlerProvider,
        contract: model_package.ModelPackage,
    ) -> None:
        super().__init__(scope, construct_id)
        resource = provider.resource(self, "Package", contract)
        self.uri = f"s3://{contract.bucket}/{contract.key_of_package}"
        self.public_key = resource.get_att_string("PublicKey")


_TABLES = "sagemaker/core/image_uri_config"
_DOMAINS = {"cn-": "amazonaws.com.cn"}


class ImageUriError(ValueError):
    """There is no image; the text says for what, and what to do."""


def triton_image(region: str, tables: Path | None = None) -> str:
    """Find the newest Triton image for processors, which serves ONNX models.

    Args:
        region: Of the endpoint.
        tables: Folder of the SDK's tables; the installed SDK's by default.

    Returns:
        The image's URI.

    Raises:
        ImageUriError: The SDK is not installed, or has no image for the region.
    """
    path = (tables or _installed()) / "sagemaker-tritonserver.json"
    versions: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))["versions"]
    version = max(versions, key=lambda text: [int(part) for part in text.split(".")])
    entry = versions[version]
    if region not in entry["registries"]:
        known = ", ".join(sorted(entry["registries"]))
        raise ImageUriError(f"verify: endpoint needs a region with a Triton image, one of {known}, got {region}")
    domain = next((name for prefix, name in _DOMAINS.items() if region.startswith(prefix)), "amazonaws.com")
    tag = entry.get("tag_prefix", f"{version}-py3")
    return f"{entry['registries'][region]}.dkr.ecr.{region}.{domain}/{entry['repository']}:{tag}-cpu"


#: Accounts of Neo's inference images, by region: `image_uri_config/neo-pytorch.json` of the SageMaker SDK at 00632da.
NEO_ACCOUNTS = {
    "af-south-1": "774647643957", "ap-east-1": "110948597952", "ap-northeast-1": "941853720454",
    "ap-northeast-2": "151534178276", "ap-northeast-3": "925152966179", "ap-south-1": "763008648453",
    "ap-southeast-1": "324986816169", "ap-southeast-2": "355873309152", "ca-central-1": "464438896020",
    "cn-north-1": "472730292857", "cn-northwest-1": "474822919863", "eu-central-1": "746233611703",
    "eu-north-1": "601324751636", "eu-south-1": "966458181534", "eu-west-1": "802834080501",
    "eu-west-2": "205493899709", "eu-west-3": "254080097072", "me-south-1": "836785723513",
    "sa-east-1": "756306329178", "us-east-1": "785573368785", "us-east-2": "007439368137",
    "us-gov-west-1": "263933020539", "us-west-1": "710691900526", "us-west-2": "301217895009",
}  # fmt: skip
#: Versions of those images by framework, the newest last: the same file.
NEO_VERSIONS = {"PYTORCH": ("1.4", "1.5", "1.6", "1.7", "1.8", "1.12")}


def neo_image(framework: str, version: str, region: str) -> str:
    """Name Neo's own image for processors, which serves what Neo compiled from a framework's model.

    Args:
        framework: SageMaker's name, such as `PYTORCH`.
        version: Of the framework, such as `1.12`.
        region: Of the endpoint.

    Returns:
        The image's URI.

    Raises:
        ImageUriError: There is none.
    """
    for what, value, known in (
        ("framework", framework, NEO_VERSIONS),
        (f"version of {framework}", version, NEO_VERSIONS.get(framework, ())),
        ("region", region, NEO_ACCOUNTS),
    ):
        if value not in known:
            raise ImageUriError(f"verify: Neo has an image for {what} {', '.join(known)}, got {value!r}")
    domain = next((name for prefix, name in _DOMAINS.items() if region.startswith(prefix)), "amazonaws.com")
    repository = f"sagemaker-inference-{framework.lower()}"
    return f"{NEO_ACCOUNTS[region]}.dkr.ecr.{region}.{domain}/{repository}:{version}-cpu-py3"


def _installed() -> Path:
    """The SDK's tables in the environment that `make setup-sagemaker` makes, or else in this one."""
    folders = sorted((PROJECT / ".venv-sagemaker" / "lib").glob(f"python*/site-packages/{_TABLES}"))
    folders += [Path(folder) / _TABLES for folder in sys.path]
    for folder in folders:
        if folder.is_dir():
            return folder
    raise ImageUriError(
        "verify: endpoint takes its image from the SageMaker SDK's table, which is not installed: "
        "run make setup-sagemaker, or set models.verification.image"
    )


#: An endpoint takes 5 to 15 minutes to come up.
LIMIT = Duration.minutes(40)
_NAMES = "a name ends with a digest of what is verified, and the models of a stage share the function"


class ModelVerifier(Construct):
    """Brings models up on endpoints, asks each its sample once, and takes the endpoints away again.

    A wrong answer fails the deploy.

    Args:
        scope: Parent construct.
        construct_id: Id below it.
        bucket: Holds models and samples, takes the server's form of the models.
        endpoints: What the name of every endpoint starts with, such as `edgewright-dev`.
        role_arn: The role that the endpoints run with.
        key_arn: Encrypts what is written.
    """

    def __init__(
        self,
        scope: Construct,
        construct_id: str,
        *,
        bucket: ArtifactBucket,
        endpoints: str,
        role_arn: str,
        key_arn: str,
    ) -> None:
        super().__init__(scope, construct_id)
        self._bucket, self._role_arn, self._key_arn = bucket, role_arn, key_arn
        self._provider = HandlerProvider(
            self,
            "Handler",
            handler=model_verification,
            permissions=[
                *_endpoint(endpoints),
                Permission(
                    ("logs:PutRetentionPolicy",),
                    (arn("logs", f"log-group:/aws/sagemaker/Endpoints/{endpoints}-*"),),
                    wildcard_reason=_NAMES,
                ),
                pass_role(role_arn, "sagemaker.amazonaws.com"),
                # For the endpoint's volume (SageMaker Developer Guide, API permissions reference, CreateEndpoint).
                Permission(
                    ("kms:CreateGrant",), (key_arn,), conditions={"Bool": {"kms:GrantIsForAWSResource": "true"}}
                ),
                *bucket.access(reads=("compiled/", "sources/"), writes=("verification/",)),
                bucket.listing(),
            ],
            limit=LIMIT,
            query_interval=Duration.seconds(10),
            memory_mb=512,
        )

    def verify(
        self,
        scope: Construct,
        construct_id: str,
        *,
        name: str,
        model: str,
        model_uri: str,
        sample_uri: str,
        image: str,
        framework: str = "",
        instance_type: str,
        tolerance: float,
    ) -> CustomResource:
        """Define the verification of one model.

        Args:
            scope: Parent construct.
            construct_id: Id below it.
            name: What the endpoint's name starts with, at most 50 characters.
            model: The model's name.
            model_uri: S3 URI of the archive with the ONNX model.
            sample_uri: S3 URI of the sample.
            image: URI of the server's image.
            framework: Of what Neo compiled, such as `PYTORCH`; empty for an ONNX model on Triton.
            instance_type: Of the endpoint.
            tolerance: Largest difference of a value that is still right.

        Returns:
            What the package must wait for.
        """
        return self._provider.resource(
            scope,
            construct_id,
            model_verification.Verification(
                model=model,
                prefix=name,
                role_arn=self._role_arn,
                model_uri=model_uri,
                sample_uri=sample_uri,
                output_uri=f"s3://{self._bucket.name}/verification/{model}",
                image=image,
                framework=framework or None,
                instance_type=instance_type,
                tolerance=tolerance,
                kms_key_id=self._key_arn,
            ),
        )


def _endpoint(name: str) -> list[Permission]:
    parts = {
        "model": ("CreateModel", "DeleteModel"),
        "endpoint-config": ("CreateEndpointConfig", "DeleteEndpointConfig", "CreateEndpoint"),
        "endpoint": ("CreateEndpoint", "DescribeEndpoint", "DeleteEndpoint", "InvokeEndpoint"),
    }
    return [
        Permission(
            tuple(f"sagemaker:{verb}" for verb in verbs),
            (arn("sagemaker", f"{kind}/{name}-*"),),
            wildcard_reason=_NAMES,
        )
        for kind, verbs in parts.items()
    ]
