"""Certificates, ours and the server's: what is accepted, what is refused, and in which words."""

from __future__ import annotations

import logging
import shutil
import ssl
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.certs import (
    BUNDLE_PASSWORD,
    KEY_PASSWORD,
    Certificate,
    CertificateSet,
    certificates,
    client_context,
    server_context,
)
from tests.support.peer import ScriptedServer
from tests.support.proxies import TLSTerminatingProxy
from tests.support.scripts import tls_first, tls_required
from trio_nats import (
    ClientCertificateError,
    ConnectError,
    TLSCertificateError,
    TLSConfigurationError,
    TLSHandshakeError,
    TLSInfo,
    TLSOptions,
    open_nats,
)
from trio_nats.testing import NatsServer, ServerTLS, ServerWebSocket

CERTS = certificates()


async def connect(port: int, tls: TLSOptions, host: str = "localhost") -> TLSInfo:
    """What is known of the encryption, if it comes to that; else the one attempt's error."""
    try:
        async with open_nats(f"tls://{host}:{port}", tls=tls, connect_timeout=5) as nc:
            await nc.flush(timeout=5)
            assert nc.tls_info is not None
            return nc.tls_info
    except ConnectError as error:
        failure = error.attempts[0].error
        raise failure from failure.__cause__


def trusting(ca_file: Path | None = None) -> TLSOptions:
    return TLSOptions(ca_file=ca_file or CERTS.ca_file)


# --- the server's certificate --------------------------------------------------------------------

REFUSED_SERVERS: dict[str, tuple[Callable[[CertificateSet], Certificate], str, str]] = {
    "unknown authority": (lambda c: c.server_other_ca, "issuer", "as ca_file"),
    "expired": (lambda c: c.server_expired, "certificate has expired", "needs a new one"),
    "not yet valid": (lambda c: c.server_not_yet_valid, "not yet valid", "clock"),
    "another host": (lambda c: c.server_other_host, "Hostname mismatch", "server_hostname"),
    "chain without intermediate": (
        lambda c: c.server_chained.leaf_only(),
        "issuer",
        "as ca_file",
    ),
}


@pytest.mark.parametrize("first", [False, True], ids=["after INFO", "TLS first"])
@pytest.mark.parametrize("case", REFUSED_SERVERS)
async def test_server_certificate_refused(case: str, first: bool) -> None:
    pick, fault, advice = REFUSED_SERVERS[case]
    script = (tls_first if first else tls_required)(server_context(pick(CERTS)))
    async with ScriptedServer(script) as server:
        with pytest.raises(TLSCertificateError) as caught:
            await connect(server.port, trusting())
    assert fault in str(caught.value)
    assert advice in str(caught.value)
    assert f"tls://localhost:{server.port}" in str(caught.value)


@pytest.mark.parametrize(
    ("certificate", "ca_file"),
    [
        (CERTS.server, CERTS.ca_file),
        (CERTS.server_chained, CERTS.ca_file),
        # An intermediate that is trusted explicitly needs no root, on any Python.
        (CERTS.server_chained.leaf_only(), CERTS.intermediate_ca_file),
        # A home-made authority without the extensions that newer Pythons insist on.
        (CERTS.server_lax, CERTS.lax_ca_file),
        (CERTS.server_other_ca, CERTS.both_cas_file),
    ],
    ids=["CA", "chain", "intermediate only", "lax CA", "two CAs"],
)
async def test_server_certificate_accepted(certificate: Certificate, ca_file: Path) -> None:
    async with ScriptedServer(tls_required(server_context(certificate))) as server:
        info = await connect(server.port, trusting(ca_file))
    assert info.verified_name == "localhost"


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
async def test_addresses_are_verified_as_addresses(host: str) -> None:
    async with ScriptedServer(tls_required(server_context(CERTS.server))) as server:
        assert (await connect(server.port, trusting(), host)).verified_name == host


async def test_an_address_that_is_not_in_the_certificate() -> None:
    async with ScriptedServer(tls_required(server_context(CERTS.server_dns_only))) as server:
        with pytest.raises(TLSCertificateError, match="IP address mismatch"):
            await connect(server.port, trusting(), "127.0.0.1")


LAX = TLSOptions(ca_file=CERTS.lax_ca_file)


@pytest.mark.parametrize("first", [False, True], ids=["after INFO", "TLS first"])
async def test_a_common_name_does_not_count(first: bool) -> None:
    """RFC 9525: only the names of the subject alternative name extension count."""
    script = (tls_first if first else tls_required)(server_context(CERTS.server_common_name))
    async with ScriptedServer(script) as server:
        with pytest.raises(TLSCertificateError) as caught:
            await connect(server.port, LAX)
        peer = await server.peer()
    text = str(caught.value)
    assert "no subject alternative names for hosts" in text
    assert "only the common name 'localhost'" in text
    assert peer.lines == []


async def test_configure_can_accept_common_names() -> None:
    def lenient(context: ssl.SSLContext) -> None:
        context.hostname_checks_common_name = True

    tls = TLSOptions(ca_file=CERTS.lax_ca_file, configure=lenient)
    async with ScriptedServer(tls_required(server_context(CERTS.server_common_name))) as server:
        assert (await connect(server.port, tls)).verified_name == "localhost"


@pytest.mark.parametrize(
    ("certificate", "host", "names"),
    [
        (CERTS.server_other_host, "localhost", "'elsewhere.example'"),
        (CERTS.server_dns_only, "127.0.0.1", "'localhost'"),
        (CERTS.server, "127.0.0.2", "'localhost', '127.0.0.1' and '::1'"),
    ],
)
async def test_a_name_mismatch_lists_the_certificates_names(
    certificate: Certificate, host: str, names: str
) -> None:
    async with ScriptedServer(tls_required(server_context(certificate))) as server:
        with pytest.raises(TLSCertificateError) as caught:
            tls = TLSOptions(ca_file=CERTS.ca_file, server_hostname=host)
            await connect(server.port, tls)
    assert f"it is valid for {names}" in str(caught.value)


async def test_certificate_names_are_escaped() -> None:
    async with ScriptedServer(tls_required(server_context(CERTS.server_rude))) as server:
        with pytest.raises(TLSCertificateError) as caught:
            await connect(server.port, LAX)
    text = str(caught.value)
    assert text.isprintable()
    assert r"'0\x1b[31m" in text
    assert "and 92 more" in text
    assert len(text) < 2000


async def test_over_websocket_too() -> None:
    async with NatsServer(
        websocket=ServerWebSocket(
            tls=ServerTLS(CERTS.server_common_name.cert_file, CERTS.server_common_name.key_file)
        )
    ) as server:
        port = server.ws_url.rpartition(":")[2]
        with pytest.raises(ConnectError) as caught:
            async with open_nats(f"wss://localhost:{port}", tls=LAX):
                pass
    (error,) = caught.value.errors(TLSCertificateError)
    assert "only the common name 'localhost'" in str(error)


async def test_server_hostname_replaces_the_urls() -> None:
    name = CERTS.server_other_host.leaf.extensions.get_extension_for_class
    from cryptography import x509

    other = name(x509.SubjectAlternativeName).value.get_values_for_type(x509.DNSName)[0]
    async with ScriptedServer(tls_required(server_context(CERTS.server_other_host))) as server:
        tls = TLSOptions(ca_file=CERTS.ca_file, server_hostname=other)
        assert (await connect(server.port, tls)).verified_name == other
        assert (await server.peer()).server_name == other


@pytest.mark.parametrize("form", ["PEM", "DER"])
async def test_ca_data(form: str) -> None:
    pem = CERTS.ca_file.read_text()
    data = pem if form == "PEM" else ssl.PEM_cert_to_DER_cert(pem)
    async with ScriptedServer(tls_required(server_context(CERTS.server))) as server:
        assert await connect(server.port, TLSOptions(ca_data=data))


async def test_skip_verify_accepts_anything_and_says_so(caplog: pytest.LogCaptureFixture) -> None:
    async with ScriptedServer(tls_required(server_context(CERTS.server_expired))) as server:
        with caplog.at_level(logging.WARNING, "trio_nats"):
            info = await connect(server.port, TLSOptions(insecure_skip_verify=True))
    assert info.verified_name is None
    assert "insecure_skip_verify" in caplog.text


async def test_a_ready_context_is_used_as_it_is() -> None:
    context = client_context(CERTS.ca_file)
    async with ScriptedServer(tls_required(server_context(CERTS.server))) as server:
        assert await connect(server.port, TLSOptions(context=context))
    assert context.sslobject_class is ssl.SSLObject
    async with ScriptedServer(tls_required(server_context(CERTS.server_expired))) as server:
        with pytest.raises(TLSCertificateError):
            await connect(server.port, TLSOptions(context=context))


async def test_configure_overrides_everything() -> None:
    def configure(context: ssl.SSLContext) -> None:
        context.load_verify_locations(CERTS.ca_file)
        context.maximum_version = ssl.TLSVersion.TLSv1_2

    async with ScriptedServer(tls_required(server_context(CERTS.server))) as server:
        assert (await connect(server.port, TLSOptions(configure=configure))).version == "TLSv1.2"


async def test_a_configure_function_that_raises() -> None:
    def configure(context: ssl.SSLContext) -> None:
        raise KeyError("mislaid")

    async with ScriptedServer(tls_required(server_context(CERTS.server))) as server:
        with pytest.raises(TLSConfigurationError, match="KeyError") as caught:
            await connect(server.port, TLSOptions(configure=configure))
        assert isinstance(caught.value.__cause__, KeyError)
        assert server.peers == []


async def test_an_old_server_is_refused() -> None:
    context = server_context(CERTS.server, maximum_version=ssl.TLSVersion.TLSv1_2)
    tls = TLSOptions(ca_file=CERTS.ca_file, minimum_version=ssl.TLSVersion.TLSv1_3)
    async with ScriptedServer(tls_required(context)) as server:
        with pytest.raises(TLSHandshakeError, match=r"TLS version that both.*minimum_version"):
            await connect(server.port, tls)


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion.TLSv1_1 is deprecated:DeprecationWarning")
async def test_tls_1_1_is_refused() -> None:
    context = server_context(CERTS.server)
    context.set_ciphers("ALL:@SECLEVEL=0")
    context.minimum_version = ssl.TLSVersion.TLSv1_1
    context.maximum_version = ssl.TLSVersion.TLSv1_1
    async with ScriptedServer(tls_required(context)) as server:
        with pytest.raises(TLSHandshakeError):
            await connect(server.port, trusting())


async def test_tls_info() -> None:
    async with ScriptedServer(tls_required(server_context(CERTS.server_chained))) as server:
        tls = TLSOptions(
            ca_file=CERTS.ca_file,
            cert_file=CERTS.client_near_expiry.cert_file,
            key_file=CERTS.client_near_expiry.key_file,
        )
        info = await connect(server.port, tls)
    leaf = info.peer_chain[0]
    assert (info.version, info.info_inside_tls) == ("TLSv1.3", False)
    assert info.cipher.startswith("TLS_")
    assert "localhost" in leaf.subject_alt_names
    assert leaf.not_after == CERTS.server_chained.leaf.not_valid_after_utc
    assert info.client_certificate_expires == CERTS.client_near_expiry.leaf.not_valid_after_utc
    if hasattr(ssl.SSLObject, "get_verified_chain"):
        assert len(info.peer_chain) == 3
        assert info.peer_chain[1].subject == leaf.issuer
        assert info.peer_chain[2].subject == info.peer_chain[1].issuer


# --- ours ----------------------------------------------------------------------------------------


def verifying(first: bool = False, low: bool = False) -> ServerTLS:
    return ServerTLS(
        CERTS.server.cert_file,
        CERTS.server.key_file,
        ca_file=CERTS.ca_file,
        verify=True,
        handshake_first=first,
    )


def showing(certificate: Certificate | None, low: bool = False) -> TLSOptions:
    def configure(context: ssl.SSLContext) -> None:
        if low:
            context.maximum_version = ssl.TLSVersion.TLSv1_2

    return TLSOptions(
        ca_file=CERTS.ca_file,
        cert_file=certificate and certificate.cert_file,
        key_file=certificate and certificate.key_file,
        configure=configure,
    )


CLIENTS: dict[str, tuple[Certificate | None, str]] = {
    "none": (None, "pass cert_file and key_file"),
    "unknown CA": (CERTS.client_other_ca, "check cert_file"),
    "without its intermediate": (CERTS.client_chained.leaf_only(), "check cert_file"),
    "expired": (CERTS.client_expired, "check cert_file"),
}


@pytest.mark.slow
@pytest.mark.parametrize("low", [False, True], ids=["TLS 1.3", "TLS 1.2"])
@pytest.mark.parametrize("first", [False, True], ids=["verify", "TLS first"])
@pytest.mark.parametrize("case", CLIENTS)
async def test_client_certificate_refused(case: str, first: bool, low: bool) -> None:
    certificate, advice = CLIENTS[case]
    async with NatsServer(tls=verifying(first)) as server:
        with pytest.raises(ClientCertificateError) as caught:
            await connect(server.port, showing(certificate, low))
    assert advice in str(caught.value)


@pytest.mark.slow
@pytest.mark.parametrize("low", [False, True], ids=["TLS 1.3", "TLS 1.2"])
@pytest.mark.parametrize("first", [False, True], ids=["verify", "TLS first"])
@pytest.mark.parametrize("certificate", [CERTS.client, CERTS.client_chained])
async def test_client_certificate_accepted(
    certificate: Certificate, first: bool, low: bool
) -> None:
    async with NatsServer(tls=verifying(first)) as server:
        assert (await connect(server.port, showing(certificate, low))).version == (
            "TLSv1.2" if low else "TLSv1.3"
        )


async def test_a_proxy_that_only_closes(nats_server: NatsServer) -> None:
    context = server_context(CERTS.server)
    context.load_verify_locations(CERTS.ca_file)
    context.verify_mode = ssl.CERT_OPTIONAL
    async with TLSTerminatingProxy(nats_server.port, context) as proxy:
        proxy.insists_on_certificate = True
        with pytest.raises(ClientCertificateError, match="none was sent"):
            await connect(proxy.port, showing(None))
        assert await connect(proxy.port, showing(CERTS.client))


FORMS: dict[str, TLSOptions] = {
    "encrypted key": TLSOptions(
        cert_file=CERTS.client_encrypted.cert_file,
        key_file=CERTS.client_encrypted.key_file,
        key_password=KEY_PASSWORD,
        ca_file=CERTS.ca_file,
    ),
    "one file": TLSOptions(cert_file=CERTS.client_combined_file, ca_file=CERTS.ca_file),
    "bundle": TLSOptions(
        bundle_file=CERTS.client_bundle, bundle_password=BUNDLE_PASSWORD, ca_file=CERTS.ca_file
    ),
    "open bundle": TLSOptions(bundle_file=CERTS.client_bundle_open, ca_file=CERTS.ca_file),
    "bundle with chain": TLSOptions(
        bundle_file=CERTS.client_chained_bundle,
        bundle_password=BUNDLE_PASSWORD,
        ca_file=CERTS.ca_file,
    ),
}


@pytest.mark.parametrize("form", FORMS)
async def test_forms_of_client_certificates(form: str) -> None:
    async with NatsServer(tls=verifying()) as server:
        assert await connect(server.port, FORMS[form])


def broken(**changes: object) -> Callable[[], TLSOptions]:
    files: dict[str, object] = {
        "cert_file": CERTS.client.cert_file,
        "key_file": CERTS.client.key_file,
        "ca_file": CERTS.ca_file,
    }
    return lambda: TLSOptions(**{**files, **changes})  # type: ignore[arg-type]  # by name


UNUSABLE: dict[str, tuple[Callable[[], TLSOptions], str]] = {
    "key of another": (
        broken(
            cert_file=CERTS.client_wrong_key.cert_file, key_file=CERTS.client_wrong_key.key_file
        ),
        "belongs to another certificate",
    ),
    "wrong password": (
        broken(
            cert_file=CERTS.client_encrypted.cert_file,
            key_file=CERTS.client_encrypted.key_file,
            key_password="guess",
        ),
        "check key_password",
    ),
    "no password": (
        broken(
            cert_file=CERTS.client_encrypted.cert_file, key_file=CERTS.client_encrypted.key_file
        ),
        "is encrypted; pass key_password",
    ),
    "no key": (broken(key_file=None), "holds no private key; pass key_file too"),
    "key without certificate": (broken(cert_file=None), "key_file is given without cert_file"),
    "certificate for a key": (broken(key_file=CERTS.client.cert_file), "no private key in PEM"),
    "key for a certificate": (broken(cert_file=CERTS.client.key_file), "no certificate in PEM"),
    "missing file": (broken(cert_file=CERTS.missing_file), "cannot read cert_file"),
    "missing key": (broken(key_file=CERTS.missing_file), "cannot read key_file"),
    "missing CA": (broken(ca_file=CERTS.missing_file), "cannot read ca_file"),
    "a directory": (broken(ca_file=CERTS.ca_file.parent), "cannot read ca_file"),
    "garbage": (broken(cert_file=CERTS.garbage_file), "certificate or key is damaged"),
    "truncated": (broken(cert_file=CERTS.truncated_file), "damaged"),
    "empty CA": (broken(ca_file=CERTS.empty_file), "holds no certificate in PEM"),
    "bad CA data": (broken(ca_file=None, ca_data="certainly"), "ca_data holds no certificate"),
    "bundle, wrong password": (
        lambda: TLSOptions(bundle_file=CERTS.client_bundle, bundle_password="guess"),
        "bundle_password is wrong",
    ),
    "bundle, no password": (
        lambda: TLSOptions(bundle_file=CERTS.client_bundle),
        "bundle_password is wrong or missing",
    ),
    "no bundle": (lambda: TLSOptions(bundle_file=CERTS.garbage_file), "it is not PKCS#12"),
    "missing bundle": (lambda: TLSOptions(bundle_file=CERTS.missing_file), "bundle_file"),
}


@pytest.mark.slow
@pytest.mark.parametrize("case", UNUSABLE)
async def test_unusable_material_is_found_before_dialling(case: str) -> None:
    options, words = UNUSABLE[case]
    async with ScriptedServer(tls_required(server_context(CERTS.server))) as server:
        with pytest.raises(TLSConfigurationError) as caught:
            await connect(server.port, options())
        assert server.peers == []
    assert words in str(caught.value)
    assert "guess" not in str(caught.value)


async def test_verify_and_map_needs_nothing_but_the_certificate() -> None:
    config = """authorization { users: [ {user: "%s", permissions: {publish: "allowed"}} ] }"""
    tls = ServerTLS(
        CERTS.server.cert_file, CERTS.server.key_file, ca_file=CERTS.ca_file, verify_and_map=True
    )
    from tests.support.certs import CLIENT_DN

    async with NatsServer(tls=tls, config=config % CLIENT_DN) as server:
        assert await connect(server.port, showing(CERTS.client_dn))
        with pytest.raises(Exception, match="Authorization Violation"):
            await connect(server.port, showing(CERTS.client))


async def test_renewed_files_are_used_at_the_next_attempt(tmp_path: Path) -> None:
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    tls = TLSOptions(ca_file=CERTS.ca_file, cert_file=cert, key_file=key)
    async with NatsServer(tls=verifying()) as server:
        for source, accepted in ((CERTS.client_expired, False), (CERTS.client, True)):
            shutil.copy(source.cert_file, cert)
            shutil.copy(source.key_file, key)
            if accepted:
                assert await connect(server.port, tls)
            else:
                with pytest.raises(ClientCertificateError):
                    await connect(server.port, tls)
