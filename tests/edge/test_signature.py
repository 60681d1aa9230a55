import base64
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given
from hypothesis import strategies as st

from edge_inference.models.integrity import SignatureError, SigningKey, parse_key
from edge_inference.models.package import ModelPackageError, open_package
from tests.edge.model_folder import make_package
from tests.edge.signing import Signer

SIGNER = Signer()


def key(signer: Signer = SIGNER) -> SigningKey:
    parsed = parse_key(signer.public_key)
    assert parsed is not None
    return parsed


@given(st.binary(max_size=5000))
def test_takes_what_the_key_signed(message: bytes) -> None:
    key().verify(message, SIGNER.sign(message))


@given(message=st.binary(min_size=1, max_size=200), bit=st.integers(0, 10_000))
def test_refuses_a_message_with_one_bit_changed(message: bytes, bit: int) -> None:
    changed = bytearray(message)
    changed[bit // 8 % len(message)] ^= 1 << bit % 8

    with pytest.raises(SignatureError, match="made by the signing key"):
        key().verify(bytes(changed), SIGNER.sign(message))


@given(st.binary(max_size=300))
def test_refuses_any_bytes_that_are_no_signature(signature: bytes) -> None:
    with pytest.raises(SignatureError):
        key().verify(b"message", signature)


def test_refuses_the_signature_of_another_key() -> None:
    with pytest.raises(SignatureError, match="made by the signing key"):
        key(Signer()).verify(b"message", SIGNER.sign(b"message"))


@pytest.mark.parametrize("value", [None, ""])
def test_no_key_is_no_mistake(value: object) -> None:
    assert parse_key(value) is None


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (7, "got int"),
        ("no base64!", "got 'no base64!'"),
        (base64.b64encode(b"short").decode(), "not the DER form"),
        (Signer(ec.SECP384R1()).public_key, "not the DER form"),
        (base64.b64encode(base64.b64decode(SIGNER.public_key)[:-1] + b"\0").decode(), "not on the curve"),
    ],
)
def test_names_what_is_wrong_with_a_key(value: object, reason: str) -> None:
    with pytest.raises(ValueError, match="signingKey must be base64 of a P-256 public key in DER") as caught:
        parse_key(value)

    assert reason in str(caught.value)


def test_opens_a_signed_package_and_says_whether_it_was_checked(tmp_path: Path) -> None:
    folder = SIGNER.sign_package(make_package(tmp_path / "p"))

    assert open_package(folder, key()).signed
    assert not open_package(folder).signed


def _swap_manifest(folder: Path) -> None:
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps({**manifest, "labels": manifest["labels"][::-1]}))


def _truncate_model(folder: Path) -> None:
    model = folder / "model.onnx"
    model.write_bytes(model.read_bytes()[:-100])


DAMAGES: dict[str, Callable[[Path], object]] = {
    "is missing: this device takes signed packages only": lambda folder: (folder / "manifest.sig").unlink(),
    "must be made by the signing key .....": lambda folder: (folder / "manifest.sig").write_bytes(b""),
    "must be made by the signing key": _swap_manifest,
    "must have .* bytes": _truncate_model,
    "over the manifest's very bytes": lambda folder: Signer().sign_package(folder),
}


@pytest.mark.parametrize("reason", DAMAGES)
def test_refuses_a_damaged_package(reason: str, tmp_path: Path) -> None:
    folder = SIGNER.sign_package(make_package(tmp_path / "p"))

    DAMAGES[reason](folder)

    with pytest.raises(ModelPackageError, match=reason):
        open_package(folder, key())


def test_checks_the_signature_before_it_reads_the_manifest(tmp_path: Path) -> None:
    folder = make_package(tmp_path / "p")
    (folder / "manifest.json").write_bytes(b"[" * 100_000)

    with pytest.raises(ModelPackageError, match=r"manifest.sig is missing"):
        open_package(folder, key())
