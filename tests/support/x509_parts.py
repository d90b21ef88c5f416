"""Certificates for :mod:`tests.support.certs` that trustme cannot create.

These are certificates without subject alternative names, and authorities without the usual
extensions.
"""

from __future__ import annotations

import datetime
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

__all__ = ["ORGANIZATION", "client_by_subject", "lax_authority", "lax_server", "load_key"]

ORGANIZATION: Final = "trio_nats tests"

_LONG_AGO = datetime.datetime(2001, 1, 1, tzinfo=datetime.UTC)
_FAR_AWAY = datetime.datetime(2900, 1, 1, tzinfo=datetime.UTC)

Signed = tuple[x509.Certificate, ec.EllipticCurvePrivateKey]
"""A certificate and its own key."""


def load_key(path: Path) -> ec.EllipticCurvePrivateKey:
    """Load the key of a PEM file. All keys here use P-256."""
    return _as_ec(path.read_bytes())


def lax_authority() -> Signed:
    """Create an authority without key usage and key identifiers, as in old tutorials."""
    key = _new_key()
    name = _name("lax authority")
    constraints = x509.BasicConstraints(ca=True, path_length=None)
    builder = _builder(name, name, key).add_extension(constraints, critical=False)
    return builder.sign(key, hashes.SHA256()), key


def lax_server(
    authority: Signed, *names: x509.GeneralName, common_name: str = "lax server"
) -> Signed:
    """Create a server certificate with ``names``, if any, and no other extension."""
    issuer, issuer_key = authority
    key = _new_key()
    builder = _builder(_name(common_name), issuer.subject, key)
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    return builder.sign(issuer_key, hashes.SHA256()), key


def client_by_subject(authority_pem: bytes, authority_key_pem: bytes, common_name: str) -> Signed:
    """Create a valid client certificate without subject alternative names."""
    issuer = x509.load_pem_x509_certificate(authority_pem)
    key = _new_key()
    builder = _builder(_name(common_name, unit="clients"), issuer.subject, key)
    constraints = x509.BasicConstraints(ca=False, path_length=None)
    usage = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH])
    issuer_id = issuer.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    authority_id = x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(issuer_id)
    own_id = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
    builder = (
        builder.add_extension(constraints, critical=True)
        .add_extension(_signing_only(), critical=True)
        .add_extension(usage, critical=False)
        .add_extension(authority_id, critical=False)
        .add_extension(own_id, critical=False)
    )
    return builder.sign(_as_ec(authority_key_pem), hashes.SHA256()), key


def _signing_only() -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=False,
        crl_sign=False,
        encipher_only=False,
        decipher_only=False,
    )


def _new_key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


def _as_ec(pem: bytes) -> ec.EllipticCurvePrivateKey:
    key = load_pem_private_key(pem, None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    return key


def _name(common_name: str, unit: str = "tests") -> x509.Name:
    return x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, ORGANIZATION),
            x509.NameAttribute(NameOID.ORGANIZATIONAL_UNIT_NAME, unit),
            x509.NameAttribute(NameOID.COMMON_NAME, common_name),
        ]
    )


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(_LONG_AGO)
        .not_valid_after(_FAR_AWAY)
    )
