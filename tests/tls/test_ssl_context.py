"""Certificates, keys and contexts: the forms they come in, when they are read, what is refused."""

from __future__ import annotations

import functools
import shutil
import socket
import ssl
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import trio
from cryptography import x509
from cryptography.hazmat.primitives import serialization

from tests.support.certs import (
    LOCAL_NAMES,
    Certificate,
    certificates,
    client_context,
    server_context,
)
from tests.support.peer import ScriptedServer
from tests.support.scripts import tls_first, tls_required
from trio_nats import (
    ConnectAttempt,
    ConnectError,
    ConnectTimeoutError,
    TLSCertificateError,
    TLSConfigurationError,
    TLSHandshakeError,
    TLSInfo,
    TLSOptions,
    open_nats,
)
from trio_nats._transport.ssl_context import load_client_tls
from trio_nats.testing import NatsServer, ServerTLS

CERTS = certificates()
SERVER = server_context(CERTS.server)
TRUSTING = TLSOptions(ca_file=CERTS.ca_file)


async def connected(port: int, tls: TLSOptions, host: str = "localhost") -> TLSInfo:
    async with open_nats(f"tls://{host}:{port}", tls=tls) as nc:
        await nc.flush()
        assert nc.tls_info is not None
        return nc.tls_info


async def failure(port: int, tls: TLSOptions, timeout: float = 5) -> ConnectAttempt:
    with pytest.raises(ConnectError) as caught:
        async with open_nats(f"tls://localhost:{port}", tls=tls, connect_timeout=timeout):
            pass
    (attempt,) = caught.value.attempts
    assert attempt.phase == "tls"
    return attempt


# --- whom to trust ------------------------------------------------------------------------------


@pytest.mark.parametrize("certificate", [CERTS.server, CERTS.server_other_ca])
async def test_ca_file_and_ca_data_add_up(certificate: Certificate) -> None:
    tls = TLSOptions(ca_file=CERTS.ca_file, ca_data=CERTS.other_ca_file.read_text())
    async with ScriptedServer(tls_required(server_context(certificate))) as server:
        await connected(server.port, tls)


async def test_a_ca_file_replaces_the_systems_authorities(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(CERTS.both_cas_file))
    alone = (await load_client_tls(TRUSTING)).context
    system = (await load_client_tls(TLSOptions(server_hostname="h"))).context
    # As text, OpenSSL leaves out leading zeros.
    (trusted,) = alone.get_ca_certs()
    authority = x509.load_pem_x509_certificate(CERTS.ca_file.read_bytes())
    assert int(str(trusted["serialNumber"]), 16) == authority.serial_number
    expected = ssl.create_default_context().cert_store_stats()
    assert system.cert_store_stats() == expected
    assert expected["x509"] == 2


async def test_every_python_verifies_alike() -> None:
    """Later versions of Python add to the default flags; here they are written down."""
    context = (await load_client_tls(TRUSTING)).context
    assert context.verify_flags == (
        ssl.VerifyFlags.VERIFY_X509_TRUSTED_FIRST | ssl.VerifyFlags.VERIFY_X509_PARTIAL_CHAIN
    )
    assert context.verify_mode is ssl.CERT_REQUIRED
    assert context.check_hostname
    assert context.minimum_version is ssl.TLSVersion.TLSv1_2


@pytest.mark.parametrize(
    "certificate", [CERTS.server_other_ca, CERTS.server_other_host, CERTS.server_not_yet_valid]
)
async def test_skip_verify_skips_all_of_it(certificate: Certificate) -> None:
    async with ScriptedServer(tls_first(server_context(certificate))) as server:
        info = await connected(server.port, TLSOptions(insecure_skip_verify=True))
    assert info.verified_name is None
    fingerprint = certificate.leaf.fingerprint(certificate.leaf.signature_hash_algorithm)
    assert info.peer_chain[0].sha256 == fingerprint.hex()


async def test_ipv6_addresses_are_verified_and_shown() -> None:
    tls = ServerTLS(CERTS.server.cert_file, CERTS.server.key_file)
    async with NatsServer(host="::1", tls=tls) as server:
        info = await connected(server.port, TRUSTING, "[::1]")
    assert info.verified_name == "::1"
    assert info.peer_chain[0].subject_alt_names == LOCAL_NAMES


class KnowsAll(trio.abc.HostnameResolver):
    """Says that every name is this machine's."""

    def __init__(self) -> None:
        self.asked: list[Any] = []

    async def getaddrinfo(self, host: Any, port: Any, *args: Any, **more: Any) -> Any:
        await trio.lowlevel.checkpoint()
        self.asked.append(host)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", int(port)))]

    async def getnameinfo(self, sockaddr: Any, flags: int) -> tuple[str, str]:
        raise NotImplementedError


async def test_the_dot_behind_a_full_name_is_not_part_of_it() -> None:
    resolver = KnowsAll()
    trio.socket.set_custom_hostname_resolver(resolver)  # for this run of Trio
    async with ScriptedServer(tls_required(SERVER)) as server:
        info = await connected(server.port, TRUSTING, "localhost.")
        assert (await server.peer()).server_name == "localhost"
    assert info.verified_name == "localhost"
    assert resolver.asked == [b"localhost."]


@pytest.mark.parametrize("name", [".example", "a\0b", "-" * 300 + ".é"])
async def test_names_that_cannot_be_verified(name: str) -> None:
    async with ScriptedServer(tls_required(SERVER)) as server:
        attempt = await failure(
            server.port, TLSOptions(ca_file=CERTS.ca_file, server_hostname=name)
        )
    assert type(attempt.error) is TLSConfigurationError
    assert f"{name!r} cannot be verified as a host name" in str(attempt.error)


async def test_the_servers_certificate_may_change_too(tmp_path: Path) -> None:
    """A new authority in ca_file is believed at the next connect, and the old one no longer."""
    ca_file = tmp_path / "ca.pem"
    tls = TLSOptions(ca_file=ca_file)
    other = server_context(CERTS.server_other_ca)
    async with ScriptedServer(tls_required(SERVER), tls_required(other)) as server:
        shutil.copy(CERTS.ca_file, ca_file)
        await connected(server.port, tls)
        assert isinstance((await failure(server.port, tls)).error, TLSCertificateError)
        shutil.copy(CERTS.other_ca_file, ca_file)
        await connected(server.port, tls)


# --- contexts -----------------------------------------------------------------------------------


def test_a_server_side_context_is_rejected() -> None:
    with pytest.raises(TLSConfigurationError, match="context must be one for clients"):
        TLSOptions(context=server_context(CERTS.server))


async def test_a_ready_context_serves_many_connections_at_once() -> None:
    context = client_context(CERTS.ca_file)
    tls = TLSOptions(context=context)
    async with ScriptedServer(tls_required(SERVER)) as server, trio.open_nursery() as nursery:
        for _ in range(5):
            nursery.start_soon(connected, server.port, tls)
    assert context.sslobject_class is ssl.SSLObject


async def test_a_ready_context_is_configured_too() -> None:
    tls = TLSOptions(
        context=ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT),
        configure=lambda context: context.load_verify_locations(CERTS.ca_file),
    )
    async with ScriptedServer(tls_required(SERVER)) as server:
        await connected(server.port, tls)


async def test_configure_cannot_block_longer_than_connecting_may_take(
    mock_clock: trio.testing.MockClock,
) -> None:
    token = trio.lowlevel.current_trio_token()
    # On the mocked clock the time is up once configure blocks, however late its thread starts.
    jump = functools.partial(mock_clock.jump, 1)

    def configure(context: ssl.SSLContext) -> None:
        trio.from_thread.run_sync(jump, trio_token=token)
        trio.from_thread.run(trio.sleep_forever, trio_token=token)

    async with ScriptedServer(tls_required(SERVER)) as server:
        attempt = await failure(server.port, TLSOptions(configure=configure), timeout=0.2)
        assert server.peers == []
    assert isinstance(attempt.error, ConnectTimeoutError)
    assert "the certificates and TLS options were not ready within 0.2 s" in str(attempt.error)


# --- versions and ciphers -----------------------------------------------------------------------


@pytest.mark.parametrize("first", [False, True])
@pytest.mark.filterwarnings("ignore:ssl.TLSVersion.TLSv1_1 is deprecated:DeprecationWarning")
async def test_a_server_that_supports_at_most_tls_1_1(first: bool) -> None:
    old = server_context(CERTS.server)
    old.set_ciphers("ALL:@SECLEVEL=0")
    old.minimum_version = old.maximum_version = ssl.TLSVersion.TLSv1_1
    async with ScriptedServer((tls_first if first else tls_required)(old)) as server:
        attempt = await failure(server.port, TRUSTING)
    assert type(attempt.error) is TLSHandshakeError
    assert "no TLS version that both sides allow; see minimum_version" in str(attempt.error)


async def test_no_common_cipher() -> None:
    picky = server_context(CERTS.server, maximum_version=ssl.TLSVersion.TLSv1_2)
    picky.set_ciphers("ECDHE-ECDSA-AES256-GCM-SHA384")

    def configure(context: ssl.SSLContext) -> None:
        context.set_ciphers("ECDHE-ECDSA-CHACHA20-POLY1305")

    tls = TLSOptions(ca_file=CERTS.ca_file, configure=configure)
    async with ScriptedServer(tls_required(picky)) as server:
        attempt = await failure(server.port, tls)
    assert type(attempt.error) is TLSHandshakeError
    assert "no common cipher, or no acceptable client certificate" in str(attempt.error)


# --- what is known of the encryption ------------------------------------------------------------


@pytest.mark.parametrize("verified", [True, False])
async def test_without_the_extra_less_is_known(
    monkeypatch: pytest.MonkeyPatch, verified: bool
) -> None:
    monkeypatch.setitem(sys.modules, "cryptography", None)
    tls = TLSOptions(
        ca_file=CERTS.ca_file,
        cert_file=CERTS.client.cert_file,
        key_file=CERTS.client.key_file,
        insecure_skip_verify=not verified,
    )
    async with ScriptedServer(tls_required(server_context(CERTS.server_chained))) as server:
        info = await connected(server.port, tls)
    leaf = info.peer_chain[0]
    assert info.client_certificate_expires is None
    assert len(leaf.sha256) == 64
    if verified:
        assert leaf.subject_alt_names == LOCAL_NAMES
        assert leaf.not_before == datetime(2000, 1, 1, tzinfo=UTC)
    else:
        assert (leaf.subject, leaf.issuer, leaf.subject_alt_names) == ("", "", ())
        assert (leaf.not_before, leaf.not_after) == (None, None)
    for issuer in info.peer_chain[1:]:
        assert (issuer.subject, issuer.not_after) == ("", None)


@pytest.mark.parametrize("certificate", [CERTS.server_chained, CERTS.server_lax])
async def test_the_description_is_the_same_verified_or_not(certificate: Certificate) -> None:
    """Two libraries decode them: the ssl module, and without verification cryptography."""
    trusting = TLSOptions(ca_file=CERTS.ca_file, ca_data=CERTS.lax_ca_file.read_text())
    blind = TLSOptions(insecure_skip_verify=True)
    async with ScriptedServer(tls_required(server_context(certificate))) as server:
        leaf, other = [
            (await connected(server.port, tls)).peer_chain[0] for tls in (trusting, blind)
        ]
    assert leaf == other


ODD: dict[str, tuple[bytes, bytes]] = {
    "of version 6": (b"\xa0\x03\x02\x01\x02", b"\xa0\x03\x02\x01\x05"),
    "an EDI party name": (b"\x82\x09localhost", b"\xa5\x09\xa1\x07\x0c\x05local"),
    "a name that is not ASCII": (b"\x82\x09localhost", b"\x82\x09localh\xff\xfft"),
}


@pytest.mark.parametrize("case", ODD)
async def test_an_unusual_certificate_does_not_break_the_connection(
    case: str, tmp_path: Path
) -> None:
    """With verification off, and among the issuers, anything may come."""
    before, after = ODD[case]
    der = CERTS.server.leaf.public_bytes(serialization.Encoding.DER)
    assert der.count(before) == 1
    odd = tmp_path / "odd.pem"
    odd.write_text(ssl.DER_cert_to_PEM_cert(der.replace(before, after)))
    context = server_context(Certificate(odd, CERTS.server.key_file, odd))
    async with ScriptedServer(tls_required(context)) as server:
        info = await connected(server.port, TLSOptions(insecure_skip_verify=True))
    assert info.peer_chain[0].subject == ""
    assert len(info.peer_chain[0].sha256) == 64
