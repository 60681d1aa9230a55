"""Proof that a model is what its signer gave: the manifest's signature, and files that are read once, within limits."""

import base64
import binascii
import hashlib
import os
import stat
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

from edge_component.settings import ConfigurationError

SIGNATURE = "manifest.sig"
#: An ECDSA signature of P-256 in DER has at most 72 bytes.
SIGNATURE_BYTES = 256
#: A public key of P-256 in DER (SubjectPublicKeyInfo) begins with its algorithm and curve; 65 bytes of point follow.
P256_PREFIX = bytes.fromhex("3059301306072a8648ce3d020106082a8648ce3d030107034200")
POINT_BYTES = 65


class SignatureError(Exception):
    """A signature that does not hold; the text says which rule it breaks."""


class SigningKey:
    """The public half of the key that signs packages: ECDSA with SHA-256 on the curve P-256.

    The check is done by awscrt, which the component needs for its device anyway.

    Args:
        der: SubjectPublicKeyInfo, as the key management service gives it.

    Raises:
        ValueError: It is no public key of P-256.
    """

    def __init__(self, der: bytes) -> None:
        if not der.startswith(P256_PREFIX) or len(der) != len(P256_PREFIX) + POINT_BYTES:
            raise ValueError("it is not the DER form of a public key on the curve P-256")
        # Imported with the first key: without one this module costs nothing.
        from awscrt.crypto import EC

        try:
            self._key: Any = EC.new_key_from_der_data(der)
        except Exception as exc:
            raise ValueError(f"its point is not on the curve P-256: {exc}") from exc
        self.fingerprint = hashlib.sha256(der).hexdigest()[:16]

    def verify(self, message: bytes, signature: bytes) -> None:
        """Check a signature.

        Args:
            message: What was signed.
            signature: ASN.1 DER, as the key management service gives it.

        Raises:
            SignatureError: It was not made by this key over this message.
        """
        # What is no signature at all is answered with False, too.
        if not self._key.verify(hashlib.sha256(message).digest(), signature):
            raise SignatureError(f"must be made by the signing key {self.fingerprint}… over the manifest's very bytes")


def parse_key(value: object) -> SigningKey | None:
    """Read the configuration's `signingKey`.

    Args:
        value: Base64 of the DER form of a P-256 public key; None or an empty text where packages are not signed.

    Returns:
        The key, or None.

    Raises:
        ValueError: It is something else.
    """
    if value is None or value == "":
        return None
    rule = "signingKey must be base64 of a P-256 public key in DER"
    if not isinstance(value, str):
        raise ValueError(f"{rule}, got {type(value).__name__}")
    try:
        return SigningKey(base64.b64decode(value, validate=True))
    except (binascii.Error, ValueError) as exc:
        shown = value if len(value) <= 40 else f"{value[:40]}…"
        raise ValueError(f"{rule}, got {shown!r}: {exc}") from exc


class SigningKeys:
    """The key in force: set by the configuration, read by whoever loads a package.

    A load takes the key once, so that a change falls between two loads and never into one.
    """

    def __init__(self) -> None:
        self.current: SigningKey | None = None

    def check(self, configuration: object) -> Callable[[], None]:
        """Check a configuration's `signingKey`; see `edge_inference.service.Check`.

        Args:
            configuration: The component's whole configuration.

        Returns:
            Puts the key in force for every load that follows.

        Raises:
            ConfigurationError: It is no key.
        """
        value = configuration.get("signingKey") if isinstance(configuration, Mapping) else None
        try:
            key = parse_key(value)
        except ValueError as exc:
            raise ConfigurationError(str(exc)) from exc
        return lambda: self._use(key)

    def _use(self, key: SigningKey | None) -> None:
        self.current = key


def open_file(path: Path) -> BinaryIO:
    """Open a file for reading, and only that: a pipe or a device in its place would be waited for, maybe for ever.

    Args:
        path: The file; a link to one is followed.

    Raises:
        OSError: It cannot be opened, or is no regular file.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(0, "it must be a regular file")
    return os.fdopen(descriptor, "rb")


def read_file(path: Path, limit_bytes: int) -> bytes:
    """Read a file, and at most one byte more than a limit: one that grows has no end.

    Args:
        path: The file.
        limit_bytes: More is not taken.

    Raises:
        OSError: It cannot be read, or is no regular file.
    """
    with open_file(path) as stream:
        return stream.read(limit_bytes + 1)


class Contents(Mapping[str, bytes]):
    """The verified files of a package by their names in the manifest; dropped when the model is loaded.

    What is loaded are these bytes, so that nobody can put others in between the check and the load.
    """

    def __init__(self, files: Mapping[str, bytes]) -> None:
        self._files = dict(files)

    def __getitem__(self, name: str) -> bytes:
        return self._files[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._files)

    def __len__(self) -> int:
        return len(self._files)

    def drop(self) -> None:
        """Give the memory back."""
        self._files.clear()


#: Field numbers of onnx.proto3: where graphs are found in a model, and where a tensor names a file of its own.
_MODEL_GRAPH, _MODEL_FUNCTIONS, _FUNCTION_NODE = 7, 25, 7
_GRAPH_NODE, _GRAPH_INITIALIZER, _GRAPH_SPARSE = 1, 5, 15
_NODE_ATTRIBUTE, _ATTRIBUTE_TENSOR, _ATTRIBUTE_GRAPH = 5, 5, 6
_ATTRIBUTE_TENSORS, _ATTRIBUTE_GRAPHS, _ATTRIBUTE_SPARSE, _ATTRIBUTE_SPARSES = 10, 11, 22, 23
_TENSOR_EXTERNAL = 13


def reads_beside(model: bytes) -> bool:
    """Whether a model has weights in files of their own where the runtime reads them from disk, whatever it is given.

    That is so in the branches of If, the bodies of loops, functions and sparse tensors; ONNX Runtime 1.32 takes those
    of the model's own graph from memory.

    Args:
        model: An ONNX model, of whatever content.
    """
    try:
        for number, value in _fields(memoryview(model)):
            if number == _MODEL_GRAPH and _graph_reads(value, outer=True):
                return True
            if number == _MODEL_FUNCTIONS:
                nodes = (node for field, node in _fields(value) if field == _FUNCTION_NODE)
                if any(_node_reads(node, outer=False) for node in nodes):
                    return True
    except (IndexError, RecursionError):
        # No ONNX model: the runtime says what is wrong with it.
        return False
    return False


def _graph_reads(graph: memoryview, *, outer: bool) -> bool:
    for number, value in _fields(graph):
        if number == _GRAPH_NODE and _node_reads(value, outer=outer):
            return True
        if number == _GRAPH_INITIALIZER and not outer and _external(value):
            return True
        if number == _GRAPH_SPARSE and _sparse(value):
            return True
    return False


def _node_reads(node: memoryview, *, outer: bool) -> bool:
    for attribute in (value for number, value in _fields(node) if number == _NODE_ATTRIBUTE):
        for number, value in _fields(attribute):
            if number in (_ATTRIBUTE_GRAPH, _ATTRIBUTE_GRAPHS) and _graph_reads(value, outer=False):
                return True
            if number == _ATTRIBUTE_TENSOR and not outer and _external(value):
                return True
            if number == _ATTRIBUTE_TENSORS and _external(value):
                return True
            if number in (_ATTRIBUTE_SPARSE, _ATTRIBUTE_SPARSES) and _sparse(value):
                return True
    return False


def _sparse(tensor: memoryview) -> bool:
    """Values and indices of a sparse tensor are tensors."""
    return any(number in (1, 2) and _external(value) for number, value in _fields(tensor))


def _external(tensor: memoryview) -> bool:
    return any(number == _TENSOR_EXTERNAL for number, _ in _fields(tensor))


def _fields(message: memoryview) -> Iterator[tuple[int, memoryview]]:
    """Number and content of each field that has a length; the others are passed over.

    Raises:
        IndexError: It is no protocol buffer.
    """
    place, end = 0, len(message)
    while place < end:
        tag, place = _varint(message, place)
        number, kind = tag >> 3, tag & 7
        if kind == 2:
            length, place = _varint(message, place)
            if length > end - place:
                raise IndexError("a field is longer than its message")
            yield number, message[place : place + length]
            place += length
        elif kind == 0:
            _, place = _varint(message, place)
        elif kind in _FIXED:
            place += _FIXED[kind]
        else:
            raise IndexError(f"wire type {kind}")


_FIXED: Mapping[int, int] = {1: 8, 5: 4}


def _varint(message: memoryview, place: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = message[place]
        place += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, place
        shift += 7
        if shift > 63:
            raise IndexError("a number is too long")
