"""Certificates for tests: valid ones, and one for every kind of fault.

Each is created on first use, in a directory that is removed when the process ends::

    certs = certificates()
    server_context(certs.server)                  # the context of a test server
    client_context(certs.ca_file, certs.client)   # the context of a client that verifies

Unless stated otherwise, certificates satisfy ``ssl.VERIFY_X509_STRICT``, a default of Python 3.13
but not of 3.11.
"""

from __future__ import annotations

import atexit
import datetime
import ipaddress
import shutil
import ssl
import tempfile
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Final

import trustme
from cryptography import x509
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    KeySerializationEncryption,
    NoEncryption,
    PrivateFormat,
    pkcs12,
)

from tests.support.x509_parts import (
    ORGANIZATION,
    Signed,
    client_by_subject,
    lax_authority,
    lax_server,
    load_key,
)

__all__ = [
    "BUNDLE_PASSWORD",
    "CLIENT_DN",
    "CLIENT_EMAIL",
    "KEY_PASSWORD",
    "LOCAL_NAMES",
    "OTHER_HOST",
    "Certificate",
    "CertificateSet",
    "certificates",
    "client_context",
    "server_context",
]

LOCAL_NAMES: Final = ("localhost", "127.0.0.1", "::1")
"""The names that :attr:`CertificateSet.server` is valid for."""

OTHER_HOST: Final = "elsewhere.example"
"""The only name :attr:`CertificateSet.server_other_host` is valid for."""

CLIENT_EMAIL: Final = "alice@clients.example"
"""The e-mail SAN of :attr:`CertificateSet.client`: its user name under ``verify_and_map``."""

CLIENT_DN: Final = "CN=bob,OU=clients,O=trio_nats tests"
"""The subject of :attr:`CertificateSet.client_dn`, as ``verify_and_map`` spells it (RFC 2253)."""

KEY_PASSWORD: Final = "open sesame"
BUNDLE_PASSWORD: Final = "bundle of joy"


@dataclass(frozen=True)
class Certificate:
    """One certificate and its key, as files."""

    cert_file: Path
    """The leaf followed by its intermediates, if any, as a peer should present it."""

    key_file: Path

    leaf_file: Path
    """The leaf alone. The same certificate as :attr:`cert_file`, which may be the same file."""

    @property
    def leaf(self) -> x509.Certificate:
        """The parsed leaf, to compare names, serial numbers and dates with."""
        return x509.load_pem_x509_certificate(self.leaf_file.read_bytes())

    def leaf_only(self) -> Certificate:
        """Return the certificate without its intermediates, as a misconfigured peer presents it."""
        return Certificate(self.leaf_file, self.key_file, self.leaf_file)


class CertificateSet:
    """The certificates of a test session in ``directory``, each created on first use."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    # -- authorities ---------------------------------------------------------------------------

    @cached_property
    def ca_file(self) -> Path:
        """The authority that issued all certificates, unless stated otherwise."""
        return self._write("ca.pem", self._ca.cert_pem.bytes())

    @cached_property
    def intermediate_ca_file(self) -> Path:
        """A "CA file" holding only the intermediate, whose root is missing.

        Trusted only with ``VERIFY_X509_PARTIAL_CHAIN``, a default of Python 3.13 but not of 3.11.
        """
        return self._write("intermediate.pem", self._intermediate.cert_pem.bytes())

    @cached_property
    def other_ca_file(self) -> Path:
        """An authority unrelated to :attr:`ca_file`."""
        return self._write("other-ca.pem", self._other_ca.cert_pem.bytes())

    @cached_property
    def both_cas_file(self) -> Path:
        """Both roots in one file, as during the rotation of an authority."""
        return self._join("both-cas.pem", self.ca_file, self.other_ca_file)

    @cached_property
    def lax_ca_file(self) -> Path:
        """An authority without key identifiers or key usage; see :attr:`server_lax`."""
        certificate, _ = self._lax_ca
        return self._write("lax-ca.pem", certificate.public_bytes(Encoding.PEM))

    # -- servers -------------------------------------------------------------------------------

    @cached_property
    def server(self) -> Certificate:
        """Valid for every name of :data:`LOCAL_NAMES`."""
        return self._issue("server", self._ca, *LOCAL_NAMES)

    @cached_property
    def server_renewed(self) -> Certificate:
        """Like :attr:`server` with another key and serial number, as after a rotation."""
        return self._issue("server-renewed", self._ca, *LOCAL_NAMES)

    @cached_property
    def server_other_host(self) -> Certificate:
        """Trusted, but for :data:`OTHER_HOST` only."""
        return self._issue("server-other-host", self._ca, OTHER_HOST)

    @cached_property
    def server_dns_only(self) -> Certificate:
        """Valid for ``localhost`` but for no IP address."""
        return self._issue("server-dns-only", self._ca, "localhost")

    @cached_property
    def server_expired(self) -> Certificate:
        """Valid until the end of 2001."""
        end = datetime.datetime(2001, 12, 31, tzinfo=datetime.UTC)
        return self._issue("server-expired", self._ca, *LOCAL_NAMES, not_after=end)

    @cached_property
    def server_not_yet_valid(self) -> Certificate:
        """Valid from the year 2900 on."""
        start = datetime.datetime(2900, 1, 1, tzinfo=datetime.UTC)
        return self._issue("server-early", self._ca, *LOCAL_NAMES, not_before=start)

    @cached_property
    def server_chained(self) -> Certificate:
        """Signed by an intermediate, which :attr:`Certificate.cert_file` includes."""
        return self._issue("server-chained", self._intermediate, *LOCAL_NAMES)

    @cached_property
    def server_other_ca(self) -> Certificate:
        """Right names, unrelated authority."""
        return self._issue("server-other-ca", self._other_ca, *LOCAL_NAMES)

    @cached_property
    def server_lax(self) -> Certificate:
        """Issued by :attr:`lax_ca_file`. Valid, but rejected by ``VERIFY_X509_STRICT``."""
        names = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
        return self._store("server-lax", lax_server(self._lax_ca, *names))

    @cached_property
    def server_common_name(self) -> Certificate:
        """Has only the common name ``localhost``; see :attr:`lax_ca_file`."""
        return self._store("server-cn", lax_server(self._lax_ca, common_name="localhost"))

    @cached_property
    def server_rude(self) -> Certificate:
        """Issued by :attr:`lax_ca_file`, for many names with control characters."""
        names = [x509.DNSName(f"{number}\x1b[31m\r\n" + "x" * 500) for number in range(100)]
        signed = lax_server(self._lax_ca, *names, common_name="\u202e\x1b[31m")
        return self._store("server-rude", signed)

    # -- clients -------------------------------------------------------------------------------

    @cached_property
    def client(self) -> Certificate:
        """Has :data:`CLIENT_EMAIL`, its user name under ``verify_and_map``."""
        return self._issue("client", self._ca, CLIENT_EMAIL, common_name="alice")

    @cached_property
    def client_renewed(self) -> Certificate:
        """Like :attr:`client` with another key, as after a rotation."""
        return self._issue("client-renewed", self._ca, CLIENT_EMAIL, common_name="alice")

    @cached_property
    def client_dn(self) -> Certificate:
        """Has only the subject :data:`CLIENT_DN`, which ``verify_and_map`` falls back to."""
        ca, ca_key = self._ca.cert_pem.bytes(), self._ca.private_key_pem.bytes()
        return self._store("client-dn", client_by_subject(ca, ca_key, "bob"))

    @cached_property
    def client_chained(self) -> Certificate:
        """Signed by the intermediate. Servers that trust only the root need the whole chain."""
        return self._issue("client-chained", self._intermediate, CLIENT_EMAIL, common_name="alice")

    @cached_property
    def client_other_ca(self) -> Certificate:
        """Signed by an authority that the servers of a test do not trust."""
        return self._issue("client-other-ca", self._other_ca, CLIENT_EMAIL, common_name="alice")

    @cached_property
    def client_expired(self) -> Certificate:
        """Valid until the end of 2001."""
        end = datetime.datetime(2001, 12, 31, tzinfo=datetime.UTC)
        return self._issue("client-expired", self._ca, CLIENT_EMAIL, not_after=end)

    @cached_property
    def client_near_expiry(self) -> Certificate:
        """Valid now, and for one more hour only."""
        end = datetime.datetime.now(datetime.UTC) + datetime.timedelta(hours=1)
        return self._issue("client-near-expiry", self._ca, CLIENT_EMAIL, not_after=end)

    @cached_property
    def client_encrypted(self) -> Certificate:
        """:attr:`client` with its key encrypted (PKCS#8) under :data:`KEY_PASSWORD`."""
        key = load_key(self.client.key_file).private_bytes(
            Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(KEY_PASSWORD.encode())
        )
        path = self._write("client-encrypted.key", key)
        return Certificate(self.client.cert_file, path, self.client.leaf_file)

    @cached_property
    def client_wrong_key(self) -> Certificate:
        """:attr:`client` with a key that belongs to another certificate."""
        key = self.client_renewed.key_file
        return Certificate(self.client.cert_file, key, self.client.leaf_file)

    @cached_property
    def client_combined_file(self) -> Path:
        """One PEM file with the key and then the certificate, as many tools write it."""
        return self._join("client-combined.pem", self.client.key_file, self.client.cert_file)

    # -- PKCS#12 -------------------------------------------------------------------------------

    @cached_property
    def client_bundle(self) -> Path:
        """:attr:`client` as PKCS#12 under :data:`BUNDLE_PASSWORD`."""
        return self._bundle("client.p12", self.client, BUNDLE_PASSWORD)

    @cached_property
    def client_bundle_open(self) -> Path:
        """:attr:`client` as PKCS#12 without a password."""
        return self._bundle("client-open.p12", self.client, None)

    @cached_property
    def client_chained_bundle(self) -> Path:
        """:attr:`client_chained` and its intermediate as PKCS#12 under :data:`BUNDLE_PASSWORD`."""
        return self._bundle("client-chained.p12", self.client_chained, BUNDLE_PASSWORD)

    # -- files that are not certificates -------------------------------------------------------

    @cached_property
    def truncated_file(self) -> Path:
        """A PEM certificate cut in the middle of its base64."""
        whole = self.client.leaf_file.read_bytes()
        return self._write("truncated.pem", whole[: len(whole) // 2])

    @cached_property
    def garbage_file(self) -> Path:
        """PEM armour around bytes that are not a certificate."""
        text = b"-----BEGIN CERTIFICATE-----\nbm90IGEgY2VydA==\n-----END CERTIFICATE-----\n"
        return self._write("garbage.pem", text)

    @cached_property
    def empty_file(self) -> Path:
        return self._write("empty.pem", b"")

    @property
    def missing_file(self) -> Path:
        """A path that does not exist."""
        return self.directory / "missing.pem"

    # -- creating them -------------------------------------------------------------------------

    @cached_property
    def _ca(self) -> trustme.CA:
        return trustme.CA(organization_name=ORGANIZATION)

    @cached_property
    def _intermediate(self) -> trustme.CA:
        return self._ca.create_child_ca()

    @cached_property
    def _other_ca(self) -> trustme.CA:
        return trustme.CA(organization_name="another organization")

    @cached_property
    def _lax_ca(self) -> Signed:
        return lax_authority()

    def _issue(
        self,
        name: str,
        authority: trustme.CA,
        *identities: str,
        common_name: str | None = None,
        not_before: datetime.datetime | None = None,
        not_after: datetime.datetime | None = None,
    ) -> Certificate:
        made = authority.issue_cert(
            *identities,
            common_name=common_name or name,
            organization_name=ORGANIZATION,
            not_before=not_before,
            not_after=not_after,
        )
        leaf, *intermediates = (blob.bytes() for blob in made.cert_chain_pems)
        key_file = self._write(f"{name}.key", made.private_key_pem.bytes())
        leaf_file = self._write(f"{name}.pem", leaf)
        if not intermediates:
            return Certificate(leaf_file, key_file, leaf_file)
        chain_file = self._write(f"{name}-chain.pem", leaf + b"".join(intermediates))
        return Certificate(chain_file, key_file, leaf_file)

    def _store(self, name: str, signed: Signed) -> Certificate:
        certificate, key = signed
        pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        key_file = self._write(f"{name}.key", pem)
        leaf_file = self._write(f"{name}.pem", certificate.public_bytes(Encoding.PEM))
        return Certificate(leaf_file, key_file, leaf_file)

    def _bundle(self, name: str, certificate: Certificate, password: str | None) -> Path:
        leaf, *rest = x509.load_pem_x509_certificates(certificate.cert_file.read_bytes())
        encryption: KeySerializationEncryption = NoEncryption()
        if password is not None:
            encryption = BestAvailableEncryption(password.encode())
        data = pkcs12.serialize_key_and_certificates(
            b"client", load_key(certificate.key_file), leaf, rest or None, encryption
        )
        return self._write(name, data)

    def _join(self, name: str, *parts: Path) -> Path:
        return self._write(name, b"".join(part.read_bytes() for part in parts))

    def _write(self, name: str, data: bytes) -> Path:
        path = self.directory / name
        path.write_bytes(data)
        return path


@cache
def certificates() -> CertificateSet:
    """Return the certificates of this process. Their directory is removed when it ends."""
    directory = tempfile.mkdtemp(prefix="trio_nats-certs-")
    atexit.register(shutil.rmtree, directory, ignore_errors=True)
    return CertificateSet(Path(directory))


def server_context(
    certificate: Certificate,
    *,
    client_ca_file: Path | None = None,
    maximum_version: ssl.TLSVersion | None = None,
) -> ssl.SSLContext:
    """Return a server's context. With ``client_ca_file`` it requires a client certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate.cert_file, certificate.key_file)
    if client_ca_file is not None:
        context.load_verify_locations(client_ca_file)
        context.verify_mode = ssl.CERT_REQUIRED
    if maximum_version is not None:
        context.maximum_version = maximum_version
    return context


def client_context(
    ca_file: Path,
    certificate: Certificate | None = None,
    *,
    strict: bool = True,
    partial_chain: bool = False,
) -> ssl.SSLContext:
    """Return a client's context with the same verification flags on every Python version."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(ca_file)
    context.verify_flags = ssl.VERIFY_X509_TRUSTED_FIRST
    if strict:
        context.verify_flags |= ssl.VERIFY_X509_STRICT
    if partial_chain:
        context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    if certificate is not None:
        context.load_cert_chain(certificate.cert_file, certificate.key_file)
    return context
