"""Describe the TLS session of a connection, and certificates."""

from __future__ import annotations

import hashlib
import ipaddress
import ssl
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, cast

import trio

from .._blocking import read_small_file
from ..options import StrPath

if TYPE_CHECKING:
    from cryptography.x509 import Certificate, Name

__all__ = [
    "MAX_FILE",
    "CertificateInfo",
    "CertificateNames",
    "TLSInfo",
    "certificate_info",
    "client_certificate_expiry",
    "describe",
    "presented_names",
]

MAX_FILE = 16 * 1024 * 1024
"""Maximum size in bytes of a certificate file. All public authorities together take 250 kB."""

_SHORT = {
    "commonName": "CN",
    "organizationName": "O",
    "organizationalUnitName": "OU",
    "countryName": "C",
    "stateOrProvinceName": "ST",
    "localityName": "L",
}


@dataclass(frozen=True, slots=True)
class CertificateInfo:
    """One certificate.

    If the certificate could not be decoded, text fields are empty and times are ``None``. Without
    the ``pkcs12`` extra, only the certificate of a verified server is decoded, not its issuers'.
    """

    subject: str
    """Such as ``"O=Acme,CN=nats"``."""
    issuer: str
    """The subject of the authority that signed the certificate."""
    subject_alt_names: tuple[str, ...]
    """The names and addresses that the certificate is valid for."""
    not_before: datetime | None
    """Start of the validity period, in UTC."""
    not_after: datetime | None
    """End of the validity period, in UTC."""
    sha256: str
    """The SHA-256 fingerprint of the certificate, in hexadecimal."""


@dataclass(frozen=True, slots=True)
class TLSInfo:
    """Describes the TLS session of a connection."""

    version: str
    """Such as ``"TLSv1.3"``."""
    cipher: str
    """Such as ``"TLS_AES_128_GCM_SHA256"``."""
    verified_name: str | None
    """The name that the certificate was verified for, or ``None`` if it was not verified."""
    peer_chain: tuple[CertificateInfo, ...]
    """The server's certificate, then its issuers up to the trusted one. Before Python 3.13, or if
    you pass ``context``, only the server's certificate is included."""
    client_certificate_expires: datetime | None
    """When the client certificate expires, or ``None`` if unknown. Needs the ``pkcs12`` extra."""
    info_inside_tls: bool
    """Whether INFO arrived inside TLS, rather than in plaintext before the handshake."""


@dataclass(frozen=True, slots=True)
class CertificateNames:
    """The names in a certificate. Unless it was verified, they may be anything."""

    hosts: tuple[str, ...]
    """The host names and addresses among the subject alternative names."""
    common_name: str
    """The subject's common name."""


def presented_names(ssl_object: ssl.SSLObject) -> CertificateNames | None:
    """Return the names in the server's certificate during the handshake, if available.

    The documented functions return only certificates that have been accepted. If CPython's ssl
    module lacks the internal one that is used here, errors have less detail.
    """
    hidden: Any = getattr(ssl_object, "_sslobj", None)
    try:
        decoded = hidden.get_unverified_chain()[0].get_info()
        alternative = cast("tuple[tuple[str, str], ...]", decoded.get("subjectAltName", ()))
        subject = cast("tuple[tuple[tuple[str, str], ...], ...]", decoded.get("subject", ()))
    except Exception:
        return None  # The names are only used in the text of an error.
    kinds = ("DNS", "IP Address")
    hosts = tuple(_plain_name(kind, name) for kind, name in alternative if kind in kinds)
    common = (value for rdn in subject for kind, value in rdn if kind == "commonName")
    return CertificateNames(hosts, next(common, ""))


def describe(
    stream: trio.SSLStream[trio.abc.Stream],
    issuers: Sequence[bytes],
    client_certificate_expires: datetime | None,
    *,
    info_inside_tls: bool,
) -> TLSInfo:
    """Describe a stream after its handshake.

    :param issuers: the certificates of the issuers, in DER.
    """
    cipher = stream.cipher()
    checked = stream.context.check_hostname
    return TLSInfo(
        version=stream.version() or "unknown",
        cipher=cipher[0] if cipher else "unknown",
        verified_name=stream.server_hostname if checked else None,
        peer_chain=(*_peer(stream), *map(certificate_info, issuers)),
        client_certificate_expires=client_certificate_expires,
        info_inside_tls=info_inside_tls,
    )


def _peer(stream: trio.SSLStream[trio.abc.Stream]) -> tuple[CertificateInfo, ...]:
    der = cast("bytes | None", stream.getpeercert(True))
    if der is None:
        return ()
    decoded = cast("dict[str, object] | None", stream.getpeercert())
    return (_from_ssl(decoded, der) if decoded else certificate_info(der),)


def certificate_info(der: bytes) -> CertificateInfo:
    """Describe one certificate, as far as it can be decoded."""
    return _from_der(der) or _from_ssl({}, der)


def _from_ssl(decoded: dict[str, object], der: bytes) -> CertificateInfo:
    def name(key: str) -> str:
        parts = cast("tuple[tuple[tuple[str, str], ...], ...]", decoded.get(key, ()))
        return ",".join(f"{_SHORT.get(kind, kind)}={value}" for rdn in parts for kind, value in rdn)

    def moment(key: str) -> datetime | None:
        text = decoded.get(key)
        if not isinstance(text, str):
            return None
        return datetime.fromtimestamp(ssl.cert_time_to_seconds(text), UTC)

    names = cast("tuple[tuple[str, str], ...]", decoded.get("subjectAltName", ()))
    return CertificateInfo(
        subject=name("subject"),
        issuer=name("issuer"),
        subject_alt_names=tuple(_plain_name(kind, value) for kind, value in names),
        not_before=moment("notBefore"),
        not_after=moment("notAfter"),
        sha256=hashlib.sha256(der).hexdigest(),
    )


def _plain_name(kind: str, value: str) -> str:
    """Shorten IPv6 addresses with ``::``, because the ssl module writes all groups."""
    if kind == "IP Address" and ":" in value:
        try:
            return str(ipaddress.IPv6Address(value))
        except ValueError:
            pass
    return value


def _from_der(der: bytes) -> CertificateInfo | None:
    try:
        from cryptography import x509
    except ImportError:
        return None
    try:
        certificate = x509.load_der_x509_certificate(der)
        return CertificateInfo(
            subject=_name(certificate.subject),
            issuer=_name(certificate.issuer),
            subject_alt_names=_alt_names(certificate),
            not_before=certificate.not_valid_before_utc,
            not_after=certificate.not_valid_after_utc,
            sha256=hashlib.sha256(der).hexdigest(),
        )
    except Exception:
        # Must not fail a connection. The exceptions have no more specific base class.
        return None


def _name(name: Name) -> str:
    return ",".join(f"{part.rfc4514_attribute_name}={part.value!s}" for part in name)


def _alt_names(certificate: Certificate) -> tuple[str, ...]:
    from cryptography import x509

    try:
        extension = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    except x509.ExtensionNotFound:
        return ()
    return tuple(str(getattr(name, "value", name)) for name in extension.value)


def client_certificate_expiry(cert_file: StrPath) -> datetime | None:
    """Return when the first certificate of a PEM file expires, if it can be decoded."""
    try:
        from cryptography import x509

        data = read_small_file(cert_file, MAX_FILE)
        return x509.load_pem_x509_certificates(data)[0].not_valid_after_utc
    except Exception:
        return None  # see above
