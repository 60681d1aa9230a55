"""Makes the package that devices download: one zip of the model, its manifest and what comes with it.

Permissions:
    s3:GetObject        `compiled/*` and `sources/*` of the artifact bucket
    s3:GetObject, s3:PutObject, s3:AbortMultipartUpload
                        `models/*` of the artifact bucket (GetObject answers HeadObject: what lies there already is
                        not written again)
    s3:ListBucket       the artifact bucket (without it a missing key answers 403 in place of 404)
    kms:Decrypt, kms:GenerateDataKey
                        the bucket's key (a multipart upload needs both)
    kms:Sign, kms:GetPublicKey
                        the signing key, if there is one

Disk: the unpacked archives and the zip, so about twice the size of the model in /tmp; set the function's ephemeral
storage accordingly. Memory does not depend on the size of the model.

A signature is another one each time that it is made, so the first one is stored beside the packages and used again:
the same content makes the same bytes, whenever it is packed.

Deletion keeps the package, because a device that is offline may still have to fetch it; the bucket's sweep empties
the bucket when the stack is destroyed.
"""

import errno
import hashlib
import json
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edge_handlers.custom_resource import Properties
from edge_handlers.deadline import Deadline
from edge_handlers.model_package.archive import fetch
from edge_handlers.model_package.layout import MANIFEST, SIGNATURE, Unpacked, arrange
from edge_handlers.model_package.package_store import PackageStore
from edge_handlers.model_package.package_zip import sha256, write
from edge_handlers.model_package.signer import Signer
from edge_handlers.s3_location import S3Location


class DiskError(RuntimeError):
    """The function's disk is too small for the model."""


@dataclass(frozen=True)
class ModelPackage:
    """The properties of the custom resource.

    Args:
        source: The portable model's archive (.tar.gz).
        compiled: The compiler's output (.tar.gz); None where the model is not compiled.
        bucket: The artifact bucket.
        prefix: `models/<name>`.
        name: The model's name, which names the zip.
        version: The model's version, for people.
        manifest: What a device must know: inputs, outputs, labels, pre-processing …
        kms_key_id: Encrypts the package; None for the bucket's default.
        signing_key_id: Signs the manifest; None leaves the package unsigned.
    """

    source: S3Location
    compiled: S3Location | None
    bucket: str
    prefix: str
    name: str
    version: str
    manifest: dict[str, Any]
    kms_key_id: str | None = None
    signing_key_id: str | None = None

    @classmethod
    def of(cls, properties: Properties) -> "ModelPackage":
        """Read SourceUri, CompiledUri, Bucket, Prefix, Name, Version, Manifest, KmsKeyId and SigningKeyId.

        Raises:
            ValueError: One is missing or malformed.
        """
        compiled = properties.optional_text("CompiledUri")
        return cls(
            source=S3Location.parse(properties.text("SourceUri")),
            compiled=S3Location.parse(compiled) if compiled else None,
            bucket=properties.text("Bucket"),
            prefix=properties.text("Prefix").rstrip("/"),
            name=properties.text("Name"),
            version=properties.text("Version"),
            manifest=properties.json_object("Manifest"),
            kms_key_id=properties.optional_text("KmsKeyId"),
            signing_key_id=properties.optional_text("SigningKeyId"),
        )


def build(package: ModelPackage, s3: Any, kms: Any, deadline: Deadline) -> dict[str, Any]:
    """Make the package and store it under the digest of its bytes.

    Args:
        package: What to make from what.
        s3: A boto3 S3 client.
        kms: A boto3 KMS client.
        deadline: Checked between the steps.

    Returns:
        The answer to the Provider framework: PhysicalResourceId is the package's S3 URI; Data Uri, Key, ManifestUri,
        Sha256, Bytes, Runtime and PublicKey (empty without a signature).

    Raises:
        ArchiveError, LayoutError: An archive cannot be used.
        AwsCallError: S3 or KMS refused a call.
        DiskError: /tmp is too small.
        DeadlineError: The time is over.
    """
    try:
        with tempfile.TemporaryDirectory() as folder:
            return _build(package, Path(folder), s3, kms, deadline)
    except OSError as exc:
        if exc.errno != errno.ENOSPC:
            raise
        raise DiskError(
            f"packaging {package.source} needs more disk than the function has; raise its ephemeral storage"
        ) from exc


def _build(package: ModelPackage, folder: Path, s3: Any, kms: Any, deadline: Deadline) -> dict[str, Any]:
    source = Unpacked(package.source, folder / "source", fetch(package.source, folder / "source", s3))
    compiled = None
    if package.compiled is not None:
        deadline.check(f"read {package.compiled}")
        compiled = Unpacked(package.compiled, folder / "compiled", fetch(package.compiled, folder / "compiled", s3))
    files, runtime = arrange(source, compiled)
    deadline.check(f"write the package of {package.name}")
    manifest = _manifest(package, files, runtime)
    store = PackageStore(s3, package.bucket, package.kms_key_id)
    texts, public_key = {MANIFEST: manifest}, ""
    if package.signing_key_id is not None:
        signer = Signer(kms, package.signing_key_id)
        texts[SIGNATURE] = _signature(f"{package.prefix}/signatures", manifest, signer, store)
        public_key = signer.public_key()
    archive = folder / "package.zip"
    write(archive, files, texts)
    digest = sha256(archive)
    deadline.check(f"upload the package of {package.name}")
    place = store.put_file(f"{package.prefix}/{digest}/{package.name}.zip", archive, digest)
    manifest_place = store.put_bytes(f"{package.prefix}/{digest}/{MANIFEST}", manifest)
    return {
        "PhysicalResourceId": str(place),
        "Data": {
            "Uri": str(place),
            "Key": place.key,
            "ManifestUri": str(manifest_place),
            "Sha256": digest,
            "Bytes": str(archive.stat().st_size),
            "Runtime": runtime,
            "PublicKey": public_key,
        },
    }


def _signature(prefix: str, manifest: bytes, signer: Signer, store: PackageStore) -> bytes:
    """The signature that the manifest got when it was first signed with this key."""
    key = f"{prefix}/{hashlib.sha256(manifest).hexdigest()}-{signer.fingerprint}.sig"
    found = store.get_bytes(key)
    if found is None:
        found = signer.sign(manifest)
        store.put_bytes(key, found, "application/octet-stream")
    return found


def _manifest(package: ModelPackage, files: dict[str, Path], runtime: str) -> bytes:
    """The stack's part, and what is known only here; the latter wins."""
    content = {
        **package.manifest,
        "name": package.name,
        "version": package.version,
        "runtime": runtime,
        "files": {name: {"sha256": sha256(path), "bytes": path.stat().st_size} for name, path in sorted(files.items())},
    }
    return json.dumps(content, indent=2, sort_keys=True, ensure_ascii=False).encode()
