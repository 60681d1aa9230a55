"""The signature of a model package: proof that the manifest comes from whoever holds the signing key."""

import base64
import binascii
import hashlib
from collections.abc import Callable, Mapping
from typing import Any

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
