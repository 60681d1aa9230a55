"""KMS in memory: real keys of the curve P-256, made by the `cryptography` package."""

from typing import Any

from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, utils

from tests.handlers.fake_service import FakeService


class FakeKms(FakeService):
    """One signing key, whatever it is called."""

    def __init__(self) -> None:
        super().__init__()
        self.private = ec.generate_private_key(ec.SECP256R1())

    def sign(self, KeyId: str, Message: bytes, MessageType: str, SigningAlgorithm: str) -> dict[str, Any]:  # noqa: N803
        self.record("sign", KeyId=KeyId, MessageType=MessageType, SigningAlgorithm=SigningAlgorithm)
        assert (MessageType, SigningAlgorithm, len(Message)) == ("DIGEST", "ECDSA_SHA_256", 32)
        return {"Signature": self.private.sign(Message, ec.ECDSA(utils.Prehashed(hashes.SHA256())))}

    def get_public_key(self, KeyId: str) -> dict[str, Any]:  # noqa: N803
        self.record("get_public_key", KeyId=KeyId)
        form = serialization.PublicFormat.SubjectPublicKeyInfo
        return {"PublicKey": self.private.public_key().public_bytes(serialization.Encoding.DER, form)}
