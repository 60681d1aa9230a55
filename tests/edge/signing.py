"""Signing keys as the key management service makes them, for packages in tests."""

import base64
from pathlib import Path

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat


class Signer:
    """A fresh key; signs as ECDSA_SHA_256 does: DER, over the message's SHA-256."""

    def __init__(self, curve: ec.EllipticCurve | None = None) -> None:
        self._key = ec.generate_private_key(curve or ec.SECP256R1())

    @property
    def public_key(self) -> str:
        """What the configuration holds."""
        der = self._key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        return base64.b64encode(der).decode()

    def sign(self, message: bytes) -> bytes:
        return self._key.sign(message, ec.ECDSA(hashes.SHA256()))

    def sign_package(self, folder: Path) -> Path:
        (folder / "manifest.sig").write_bytes(self.sign((folder / "manifest.json").read_bytes()))
        return folder
