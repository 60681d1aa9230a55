"""The certificate authority of a core device, and the certificate that it gives to the device's broker.

As the client device auth component has it: made on the device, known to the cloud for discovery, good for five years.
"""

from __future__ import annotations

import ipaddress
import logging
import ssl
from collections.abc import Collection
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from twin.files import write_whole

log = logging.getLogger(__name__)

LIFE = timedelta(days=5 * 365)
RENEWED_BEFORE = timedelta(days=30)
"""So long before its end an authority has a successor; both are told to the cloud until then."""

EARLIER = timedelta(hours=1)
"""Certificates are good from so long before they are made: a client device's clock may be behind."""


class CertificateAuthority:
    """Makes the authority's key and certificate at the first use, and its successor in time.

    Args:
        folder: For the files; made if missing, only its owner may look into it.
        name: The core device's thing.
        life: Of a new authority.
    """

    def __init__(self, folder: Path, name: str, life: timedelta = LIFE) -> None:
        self._folder, self._name, self._life = folder, name, life
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._key, self._certificate = self._load() or self._make()

    @property
    def certificates(self) -> list[str]:
        """What client devices trust, as PEM: this authority's certificate, then the one before while it is good."""
        found = [_pem(self._certificate)]
        former = self._folder / "former.pem"
        if former.exists():
            before = x509.load_pem_x509_certificate(former.read_bytes())
            if before.not_valid_after_utc > _now():
                found.append(_pem(before))
        return found

    def renew_if_due(self, within: timedelta = RENEWED_BEFORE) -> bool:
        """Make a successor if this authority ends soon; whether it did."""
        if self._certificate.not_valid_after_utc - _now() > min(within, self._life / 2):
            return False
        write_whole(self._folder / "former.pem", _pem(self._certificate), private=True)
        self._key, self._certificate = self._make()
        return True

    def server_context(self, hosts: Collection[str], life: timedelta, client_roots: Path) -> ssl.SSLContext:
        """A context for the broker, with a new certificate.

        Args:
            hosts: Names and addresses that clients reach the broker by; `localhost` is always among them.
            life: Of the certificate; it ends before the authority in any case.
            client_roots: File of those who sign certificates of client devices (PEM).

        Raises:
            OSError: A file cannot be written or read.
        """
        key = ec.generate_private_key(ec.SECP256R1())
        names = [_general_name(host) for host in dict.fromkeys(("localhost", *hosts))]
        certificate = (
            self._builder(self._name, key, min(_now() + life, self._certificate.not_valid_after_utc))
            .add_extension(x509.SubjectAlternativeName(names), critical=False)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
            .sign(self._key, hashes.SHA256())
        )
        path = self._folder / "server.pem"
        write_whole(path, _pem_of(key) + _pem(certificate) + _pem(self._certificate), private=True)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(client_roots)
        context.load_cert_chain(path)
        # A client that comes back shows its certificate again: what it resumed would tell nothing of it.
        context.num_tickets = 0
        return context

    def _load(self) -> tuple[ec.EllipticCurvePrivateKey, x509.Certificate] | None:
        try:
            content = (self._folder / "authority.pem").read_bytes()
            key, certificate = load_pem_private_key(content, None), x509.load_pem_x509_certificate(content)
        except FileNotFoundError:
            return None
        except ValueError as exc:
            log.error("the device's certificate authority cannot be read, it gets a new one: %s", exc)
            return None
        if not isinstance(key, ec.EllipticCurvePrivateKey) or certificate.not_valid_after_utc <= _now():
            return None
        return key, certificate

    def _make(self) -> tuple[ec.EllipticCurvePrivateKey, x509.Certificate]:
        key = ec.generate_private_key(ec.SECP256R1())
        certificate = (
            self._builder(f"Greengrass Core CA of {self._name}"[:64], key, _now() + self._life, own=key)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(
                x509.KeyUsage(
                    digital_signature=True,
                    key_cert_sign=True,
                    crl_sign=True,
                    content_commitment=False,
                    key_encipherment=False,
                    data_encipherment=False,
                    key_agreement=False,
                    encipher_only=False,
                    decipher_only=False,
                ),
                critical=True,
            )
            .sign(key, hashes.SHA256())
        )
        write_whole(self._folder / "authority.pem", _pem_of(key) + _pem(certificate), private=True)
        return key, certificate

    def _builder(
        self,
        subject: str,
        key: ec.EllipticCurvePrivateKey,
        end: datetime,
        *,
        own: ec.EllipticCurvePrivateKey | None = None,
    ) -> x509.CertificateBuilder:
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, subject[:64])])
        issuer_key = own or self._key
        return (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(name if own else self._certificate.subject)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(_now() - EARLIER)
            .not_valid_after(end)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key()), critical=False)
        )


def _general_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _now() -> datetime:
    # Real time, at any speed of the twin: clients check certificates by the machine's clock.
    return datetime.now(UTC)


def _pem_of(key: ec.EllipticCurvePrivateKey) -> str:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()


def _pem(certificate: x509.Certificate) -> str:
    return certificate.public_bytes(Encoding.PEM).decode()
