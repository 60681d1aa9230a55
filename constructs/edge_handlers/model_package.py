"""Custom resource: the model package that devices download: one zip of the model, its manifest and what comes with it.

Disk: the unpacked archives and the zip, so about twice the size of the model in /tmp; set the function's ephemeral
storage accordingly. Memory does not depend on the size of the model.

A signature is another one each time that it is made, so the first one is stored beside the packages and used again:
the same content makes the same bytes, whenever it is packed.

Deletion keeps the package, because a device that is offline may still have to fetch it; the bucket's sweep empties
the bucket when the stack is destroyed.
"""

import base64
import errno
import hashlib
import json
import re
import shutil
import tempfile
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from edge_handlers.answering import answering
from edge_handlers.custom_resource import Contract, Key, Properties, RequestType, json_object, parse
from edge_handlers.model_archive import fetch
from edge_handlers.s3_objects import (
    CHUNK_BYTES,
    ObjectStore,
    S3Location,
    check_job,
    check_own,
    compiled_of,
    digest,
    sha256_of,
    source_of,
    uri,
)
from edge_handlers.service_client import Deadline, client, explaining

MODEL = "model.onnx"
MANIFEST = "manifest.json"
SIGNATURE = "manifest.sig"
COMPILED = "compiled"
ALGORITHM = "ECDSA_SHA_256"
EPOCH = (1980, 1, 1, 0, 0, 0)  # the earliest time a zip can hold
MODE = 0o100644 << 16
UNIX = 3


class DiskError(RuntimeError):
    """The function's disk is too small for the model."""


class LayoutError(ValueError):
    """The two archives do not make a package."""


@dataclass(frozen=True, kw_only=True)
class ModelPackage(Contract):
    """What to make from what.

    Args:
        source_uri: The portable model's archive (.tar.gz).
        compiled_uri: The compiler's output (.tar.gz); empty where the model is not compiled.
        bucket: The artifact bucket.
        model: The model's name: only its own objects are read and written.
        job: What the folders of its compilations start with.
        name: Names the zip.
        version: The model component's version, for people.
        content: Digest of all that the package is made of, which names its place.
        manifest: What a device must know: inputs, outputs, labels, pre-processing …
        kms_key_id: Encrypts the package; None for the bucket's default.
        signing_key_id: Signs the manifest; None leaves the package unsigned.
    """

    TYPE = "Custom::ModelPackage"

    source_uri: Annotated[str, uri("SourceUri")]
    compiled_uri: Annotated[str | None, uri("CompiledUri")] = None
    bucket: Annotated[str, Key("Bucket")]
    model: Annotated[str, Key("Model")]
    job: Annotated[str, Key("JobNamePrefix")]
    name: Annotated[str, Key("Name")]
    version: Annotated[str, Key("Version")]
    content: Annotated[str, digest("ContentSha256")]
    manifest: Annotated[dict[str, Any], json_object("Manifest", sort_keys=True)]
    kms_key_id: Annotated[str | None, Key("KmsKeyId")] = None
    signing_key_id: Annotated[str | None, Key("SigningKeyId")] = None

    def check(self, properties: Properties) -> None:
        """Refuse names that make no key, and objects of other models."""
        for field in ("model", "name"):
            if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9.-]*", getattr(self, field)):
                raise ValueError(
                    f"{properties.where}.{self.key(field)} must be letters, digits, dots and dashes, "
                    f"got {getattr(self, field)!r}"
                )
        check_job(f"{properties.where}.{self.key('job')}", self.job, self.model)
        check_own(f"{properties.where}.{self.key('source_uri')}", self.source_uri, source_of(self.model))
        if self.compiled_uri:
            check_own(f"{properties.where}.{self.key('compiled_uri')}", self.compiled_uri, compiled_of(self.job))

    @property
    def prefix(self) -> str:
        """Where everything of the model is written."""
        return f"models/{self.model}"

    @property
    def key_of_package(self) -> str:
        """The package's key, which follows from what it is made of: known before it is made."""
        return f"{self.prefix}/{self.content}/{self.name}.zip"


@dataclass(frozen=True)
class Unpacked:
    """An archive on disk.

    Args:
        place: Where it came from.
        folder: Where its members are.
        names: Their names.
    """

    place: S3Location
    folder: Path
    names: tuple[str, ...]

    @classmethod
    def fetch(cls, uri: str, folder: Path, s3: Any) -> "Unpacked":
        """Unpack an archive into a folder."""
        place = S3Location.parse(uri)
        return cls(place, folder, fetch(place, folder, s3))


class Signer:
    """An asymmetric KMS key of the curve P-256.

    Args:
        kms: A boto3 KMS client.
        key_id: The key's ARN.
    """

    def __init__(self, kms: Any, key_id: str) -> None:
        self._kms = kms
        self._key_id = key_id

    @property
    def fingerprint(self) -> str:
        """What tells this key from others in a key of S3: 16 hexadecimal digits."""
        return hashlib.sha256(self._key_id.encode()).hexdigest()[:16]

    def sign(self, message: bytes) -> bytes:
        """Return the signature of a message of any length, ASN.1 DER; each call gives another one.

        Raises:
            AwsCallError: KMS refused the call.
        """
        # A digest, because KMS takes no more than 4,096 bytes of a message.
        digest = hashlib.sha256(message).digest()
        with explaining(f"sign with {self._key_id}"):
            answer = self._kms.sign(
                KeyId=self._key_id, Message=digest, MessageType="DIGEST", SigningAlgorithm=ALGORITHM
            )
        signature: bytes = answer["Signature"]
        return signature

    def public_key(self) -> str:
        """Return the public half as devices are told it: base64 of its DER SubjectPublicKeyInfo.

        Raises:
            AwsCallError: KMS refused the call.
        """
        with explaining(f"read the public key of {self._key_id}"):
            answer = self._kms.get_public_key(KeyId=self._key_id)
        return base64.b64encode(answer["PublicKey"]).decode()


def on_event(event: dict[str, Any], context: Any) -> dict[str, Any]:
    """Answer one event of CloudFormation: Create and Update make the package, Delete keeps it."""
    request = parse(event)
    if request.type is RequestType.DELETE:
        return {"PhysicalResourceId": request.known_id}
    return build(ModelPackage.of(request.properties), client("s3"), client("kms"), Deadline.of(context))


def build(package: ModelPackage, s3: Any, kms: Any, deadline: Deadline) -> dict[str, Any]:
    """Make the package and store it under the digest of what it is made of, unless it lies there already.

    Args:
        package: What to make from what.
        s3: A boto3 S3 client.
        kms: A boto3 KMS client.
        deadline: Checked between the steps.

    Returns:
        What `answering` sends: PhysicalResourceId is the package's S3 URI; Data Uri, Key, ManifestUri,
        Sha256, Bytes, Runtime and PublicKey (empty without a signature).

    Raises:
        ArchiveError, LayoutError: An archive cannot be used.
        AwsCallError: S3 or KMS refused a call.
        ContentError: It is there with other bytes.
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
            f"packaging {package.source_uri} needs more disk than the function has; raise its ephemeral storage"
        ) from exc


def _build(package: ModelPackage, folder: Path, s3: Any, kms: Any, deadline: Deadline) -> dict[str, Any]:
    source = Unpacked.fetch(package.source_uri, folder / "source", s3)
    compiled = None
    if package.compiled_uri:
        deadline.check(f"read {package.compiled_uri}")
        compiled = Unpacked.fetch(package.compiled_uri, folder / "compiled", s3)
    files, runtime = arrange(source, compiled)
    deadline.check(f"write the package of {package.name}")
    manifest = _manifest(package, files, runtime)
    store = ObjectStore(s3, package.bucket, package.kms_key_id)
    texts, public_key = {MANIFEST: manifest}, ""
    if package.signing_key_id is not None:
        signer = Signer(kms, package.signing_key_id)
        texts[SIGNATURE] = _signature(f"{package.prefix}/signatures", manifest, signer, store)
        public_key = signer.public_key()
    archive = folder / "package.zip"
    write_zip(archive, files, texts)
    sha256 = sha256_of(archive)
    deadline.check(f"upload the package of {package.name}")
    place = store.put_once(package.key_of_package, archive, sha256)
    manifest_place = store.put_bytes(f"{package.prefix}/{package.content}/{MANIFEST}", manifest)
    return {
        "PhysicalResourceId": str(place),
        "Data": {
            "Uri": str(place),
            "Key": place.key,
            "ManifestUri": str(manifest_place),
            "Sha256": sha256,
            "Bytes": str(archive.stat().st_size),
            "Runtime": runtime,
            "PublicKey": public_key,
        },
    }


def _signature(prefix: str, manifest: bytes, signer: Signer, store: ObjectStore) -> bytes:
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
        "files": {
            name: {"sha256": sha256_of(path), "bytes": path.stat().st_size} for name, path in sorted(files.items())
        },
    }
    return json.dumps(content, indent=2, sort_keys=True, ensure_ascii=False).encode()


def arrange(source: Unpacked, compiled: Unpacked | None) -> tuple[dict[str, Path], str]:
    """Choose the package's files and its runtime.

    The compiler's ONNX model, if it made one, takes the place of the source's; whatever else it made goes under
    `compiled/`. The source's other files (labels, samples) are carried along.

    Args:
        source: The portable model, one .onnx file among its files.
        compiled: The compiler's output; None where the model is not compiled.

    Returns:
        Name in the package → file, and the runtime: "onnxruntime", or "dlr" for Neo's own format.

    Raises:
        LayoutError: There is not exactly one ONNX model to take, or a file would hide another.
    """
    portable = _onnx(source)
    files = {name: source.folder / name for name in source.names if name not in portable}
    optimised: list[str] = []
    if compiled is not None:
        optimised = _onnx(compiled)
        for name in compiled.names:
            if name not in optimised:
                _add(files, f"{COMPILED}/{name}", compiled.folder / name, compiled)
    chosen, archive = (optimised, compiled) if compiled is not None and optimised else (portable, source)
    if len(chosen) != 1:
        raise LayoutError(
            f"model archive {archive.place} must hold exactly one .onnx file, got {chosen or 'none'}; pack it again"
        )
    _add(files, MODEL, archive.folder / chosen[0], archive)
    for name in (MANIFEST, SIGNATURE):
        if name in files:
            raise LayoutError(f"model archive {source.place} must not hold {name}, which is written here; leave it out")
    return files, "dlr" if compiled is not None and not optimised else "onnxruntime"


def _onnx(archive: Unpacked) -> list[str]:
    return [name for name in archive.names if name.endswith(".onnx")]


def _add(files: dict[str, Path], name: str, path: Path, archive: Unpacked) -> None:
    if name in files:
        raise LayoutError(
            f"model archive {archive.place} must not hold {name}, which the package has already; rename it"
        )
    files[name] = path


def write_zip(target: Path, files: Mapping[str, Path], texts: Mapping[str, bytes]) -> None:
    """Write a zip whose bytes follow from the content alone.

    Times, owners and the order of the folder leave no trace, and nothing is compressed: a deflate stream depends on the
    zlib that wrote it, and weights hardly shrink.

    Args:
        target: The zip to write; must not exist.
        files: Name in the archive → file on disk.
        texts: Name in the archive → content.

    Raises:
        ValueError: A name is in both.
        OSError: The disk is full.
    """
    both = files.keys() & texts.keys()
    if both:
        raise ValueError(f"a name must be in the archive once, got {sorted(both)} twice")
    with zipfile.ZipFile(target, "x", zipfile.ZIP_STORED) as archive:
        for name in sorted([*files, *texts]):
            entry = zipfile.ZipInfo(name, EPOCH)
            entry.external_attr = MODE
            entry.create_system = UNIX
            if name in texts:
                archive.writestr(entry, texts[name])
                continue
            entry.file_size = files[name].stat().st_size
            with files[name].open("rb") as source, archive.open(entry, "w") as sink:
                shutil.copyfileobj(source, sink, CHUNK_BYTES)


handler = answering(on_event)
