"""Every certificate is accepted, or refused, for the reason it was made for."""

from __future__ import annotations

import datetime
import ssl
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import pkcs12
from cryptography.x509 import SubjectAlternativeName

from tests.support.certs import (
    BUNDLE_PASSWORD,
    CLIENT_DN,
    CLIENT_EMAIL,
    KEY_PASSWORD,
    OTHER_HOST,
    Certificate,
    CertificateSet,
    certificates,
    client_context,
    server_context,
)

CERTS = certificates()
TLS12 = ssl.TLSVersion.TLSv1_2


def handshake(
    server: ssl.SSLContext, client: ssl.SSLContext, name: str = "localhost"
) -> ssl.SSLObject:
    """Shake hands without a network; the first refusal is raised. Returns the server's side."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = [
        client.wrap_bio(to_client, to_server, server_hostname=name),
        server.wrap_bio(to_server, to_client, server_side=True),
    ]
    waiting = set(ends)
    while waiting:
        for end in ends:
            try:
                end.do_handshake()
                waiting.discard(end)
            except ssl.SSLWantReadError:
                pass
    return ends[1]


def refusal(server: ssl.SSLContext, client: ssl.SSLContext, name: str = "localhost") -> str:
    with pytest.raises(ssl.SSLError) as caught:
        handshake(server, client, name)
    return str(caught.value)


@pytest.mark.parametrize("strict", [True, False])
@pytest.mark.parametrize("name", ["localhost", "127.0.0.1", "::1"])
def test_the_server_is_itself_under_each_of_its_names(name: str, strict: bool) -> None:
    for server in (CERTS.server, CERTS.server_renewed, CERTS.server_chained):
        handshake(server_context(server), client_context(CERTS.ca_file, strict=strict), name)


@pytest.mark.parametrize(
    ("server", "reason"),
    [
        (CERTS.server_other_host, "Hostname mismatch"),
        (CERTS.server_expired, "certificate has expired"),
        (CERTS.server_not_yet_valid, "certificate is not yet valid"),
        (CERTS.server_other_ca, "unable to get local issuer certificate"),
        (CERTS.server_chained.leaf_only(), "unable to get local issuer certificate"),
    ],
    ids=["other-host", "expired", "not-yet-valid", "other-ca", "no-intermediate"],
)
@pytest.mark.parametrize("strict", [True, False])
def test_a_bad_server_is_refused_for_what_is_wrong(
    server: Certificate, reason: str, strict: bool
) -> None:
    client = client_context(CERTS.ca_file, strict=strict)
    assert reason in refusal(server_context(server), client)


def test_other_names_and_authorities_are_valid_for_their_use() -> None:
    ours = client_context(CERTS.ca_file)
    handshake(server_context(CERTS.server_other_host), ours, OTHER_HOST)
    handshake(server_context(CERTS.server_dns_only), ours)
    assert "mismatch" in refusal(server_context(CERTS.server_dns_only), ours, "127.0.0.1")
    handshake(server_context(CERTS.server_other_ca), client_context(CERTS.other_ca_file))
    for server in (CERTS.server, CERTS.server_other_ca):
        handshake(server_context(server), client_context(CERTS.both_cas_file))


def test_the_lax_server_is_refused_by_strict_verification_only() -> None:
    server = server_context(CERTS.server_lax)
    handshake(server, client_context(CERTS.lax_ca_file, strict=False))
    assert "verify failed" in refusal(server, client_context(CERTS.lax_ca_file, strict=True))


def test_an_intermediate_is_trusted_by_partial_chains_only() -> None:
    server = server_context(CERTS.server_chained)
    handshake(server, client_context(CERTS.intermediate_ca_file, partial_chain=True))
    reason = refusal(server, client_context(CERTS.intermediate_ca_file))
    assert "unable to get issuer certificate" in reason


@pytest.mark.parametrize(
    "client",
    [
        CERTS.client,
        CERTS.client_renewed,
        CERTS.client_dn,
        CERTS.client_chained,
        CERTS.client_near_expiry,
    ],
    ids=lambda client: client.leaf_file.stem,
)
def test_the_server_verifies_a_valid_client_certificate(client: Certificate) -> None:
    server = server_context(CERTS.server, client_ca_file=CERTS.ca_file)
    server.verify_flags |= ssl.VERIFY_X509_STRICT
    seen = handshake(server, client_context(CERTS.ca_file, client)).getpeercert(True)
    assert seen is not None
    assert ssl.DER_cert_to_PEM_cert(seen) == client.leaf_file.read_text()


@pytest.mark.parametrize(
    ("client", "reason"),
    [
        (None, "peer did not return a certificate"),
        (CERTS.client_other_ca, "unable to get local issuer certificate"),
        (CERTS.client_chained.leaf_only(), "unable to get local issuer certificate"),
        (CERTS.client_expired, "certificate has expired"),
    ],
    ids=["none", "other-ca", "no-intermediate", "expired"],
)
def test_a_bad_client_is_refused_for_what_is_wrong(client: Certificate | None, reason: str) -> None:
    # Up to TLS 1.2 the server's verdict comes first; in 1.3 the client is done before it.
    for version in (TLS12, None):
        server = server_context(CERTS.server, client_ca_file=CERTS.ca_file, maximum_version=version)
        assert reason in refusal(server, client_context(CERTS.ca_file, client)).lower()


def test_what_verify_and_map_goes_by() -> None:
    server = server_context(CERTS.server, client_ca_file=CERTS.ca_file)
    seen = handshake(server, client_context(CERTS.ca_file, CERTS.client)).getpeercert()
    assert seen is not None
    assert seen["subjectAltName"] == (("email", CLIENT_EMAIL),)
    assert CERTS.client_dn.leaf.subject.rfc4514_string() == CLIENT_DN
    extensions = CERTS.client_dn.leaf.extensions
    assert not any(isinstance(one.value, SubjectAlternativeName) for one in extensions)


def test_renewed_certificates_are_other_ones() -> None:
    for old, new in (
        (CERTS.server, CERTS.server_renewed),
        (CERTS.client, CERTS.client_renewed),
    ):
        assert old.leaf.serial_number != new.leaf.serial_number
        assert old.leaf.public_key() != new.leaf.public_key()


def test_the_near_expiry_is_near() -> None:
    left = CERTS.client_near_expiry.leaf.not_valid_after_utc - datetime.datetime.now(datetime.UTC)
    assert datetime.timedelta() < left <= datetime.timedelta(hours=1)


def test_keys() -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    encrypted = CERTS.client_encrypted
    context.load_cert_chain(encrypted.cert_file, encrypted.key_file, KEY_PASSWORD)
    with pytest.raises(ssl.SSLError):
        context.load_cert_chain(encrypted.cert_file, encrypted.key_file, "wrong")
    wrong = CERTS.client_wrong_key
    with pytest.raises(ssl.SSLError, match=r"(?i)key.values.mismatch"):
        context.load_cert_chain(wrong.cert_file, wrong.key_file)
    context.load_cert_chain(CERTS.client_combined_file)


@pytest.mark.parametrize(
    ("bundle", "password", "certificate", "extra"),
    [
        (CERTS.client_bundle, BUNDLE_PASSWORD, CERTS.client, 0),
        (CERTS.client_bundle_open, None, CERTS.client, 0),
        (CERTS.client_chained_bundle, BUNDLE_PASSWORD, CERTS.client_chained, 1),
    ],
    ids=["password", "open", "chain"],
)
def test_bundles(bundle: Path, password: str | None, certificate: Certificate, extra: int) -> None:
    opened = pkcs12.load_pkcs12(bundle.read_bytes(), (password and password.encode()) or None)
    assert opened.key is not None
    assert opened.cert is not None
    assert opened.cert.certificate == certificate.leaf
    assert len(opened.additional_certs) == extra


def test_files_that_are_not_certificates() -> None:
    for path in (CERTS.truncated_file, CERTS.garbage_file, CERTS.empty_file):
        with pytest.raises(ssl.SSLError):
            client_context(path)
    with pytest.raises(FileNotFoundError):
        client_context(CERTS.missing_file)


def test_certificates_are_made_once_and_when_asked_for(tmp_path: Path) -> None:
    assert certificates() is CERTS
    fresh = CertificateSet(tmp_path)
    assert list(tmp_path.iterdir()) == []
    assert fresh.client is fresh.client
    assert sorted(path.name for path in tmp_path.iterdir()) == ["client.key", "client.pem"]
