"""Signs a package's manifest with a key that never leaves KMS."""

import base64
import hashlib
from typing import Any

from edge_handlers.service_client import explaining

ALGORITHM = "ECDSA_SHA_256"


class Signer:
    """An asymmetric KMS key of the curve P-256.

    Permissions: kms:Sign and kms:GetPublicKey on the key.

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
