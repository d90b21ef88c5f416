"""Our own certificate: the forms it comes in, when it is read, how its refusal is told."""

from __future__ import annotations

import os
import shutil
import ssl
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
import trio
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import pkcs12

from tests.support.certs import BUNDLE_PASSWORD, Certificate, certificates, server_context
from tests.support.peer import Peer, ScriptedServer
from tests.support.timeouts import HANG_TIMEOUT
from tests.support.x509_parts import load_key
from trio_nats import (
    ClientCertificateError,
    ConnectError,
    ReconnectPolicy,
    TLSConfigurationError,
    TLSOptions,
    open_nats,
)
from trio_nats._transport.ssl_context import load_client_tls

CERTS = certificates()
SERVER = server_context(CERTS.server)
TRUSTING = TLSOptions(ca_file=CERTS.ca_file)


def showing(certificate: Certificate) -> TLSOptions:
    return TLSOptions(
        ca_file=CERTS.ca_file, cert_file=certificate.cert_file, key_file=certificate.key_file
    )


def wants_certificate() -> ssl.SSLContext:
    return server_context(CERTS.server, client_ca_file=CERTS.ca_file)


async def test_a_close_after_info_inside_tls_is_not_a_certificate_error() -> None:
    """Who gets as far as INFO has shown an acceptable certificate, or was not asked for one."""

    async def script(peer: Peer) -> None:
        await peer.start_tls(SERVER)
        await peer.send_info(tls_required=True, tls_verify=True)
        await peer.accept_connect(pong=False)
        await peer.hang_up()

    async with ScriptedServer(script) as server:
        with pytest.raises(ConnectError) as caught:
            async with open_nats(f"tls://localhost:{server.port}", tls=TRUSTING):
                pass
    (attempt,) = caught.value.attempts
    assert attempt.phase == "auth"
    assert not isinstance(attempt.error, ClientCertificateError)
    assert "closed the connection after CONNECT without giving a reason" in str(attempt.error)


@pytest.mark.parametrize("how", [Peer.hang_up, Peer.abort], ids=["closed", "reset"])
async def test_a_close_after_a_certificate_request_is_a_certificate_error(
    how: Callable[[Peer], object],
) -> None:
    async def script(peer: Peer) -> None:
        await peer.send_info(tls_required=True, tls_verify=True)
        await peer.start_tls(SERVER)
        await peer.expect_line(b"CONNECT")
        await peer.expect_line(b"PING")
        ended = how(peer)
        if ended is not None:
            await ended  # type: ignore[misc]  # a coroutine

    async with ScriptedServer(script) as server:
        with pytest.raises(ConnectError) as caught:
            async with open_nats(f"tls://localhost:{server.port}", tls=showing(CERTS.client)):
                pass
    (attempt,) = caught.value.attempts
    assert isinstance(attempt.error, ClientCertificateError)
    assert "(the one sent)" in str(attempt.error)
    assert "whether the server behind a proxy is running" in str(attempt.error)


async def test_files_are_read_again_at_each_reconnect(tmp_path: Path) -> None:
    """A rotation while connected: half of it done is an error of that attempt, and no more."""
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    shutil.copy(CERTS.client.cert_file, cert)
    shutil.copy(CERTS.client.key_file, key)
    shown: list[str] = []
    attempts: list[int] = []

    async def script(peer: Peer) -> None:
        await peer.start_tls(wants_certificate())
        assert peer.tls is not None
        shown.append(str(peer.tls.getpeercert()["serialNumber"]))
        await peer.send_info()
        await peer.accept_connect()
        if len(shown) == 1:
            await peer.expect_line(b"PING")
            shutil.copy(CERTS.client_renewed.cert_file, cert)
            await peer.hang_up()
        else:
            await peer.serve()

    def delay(attempt: int) -> float:
        attempts.append(attempt)
        if attempt == 2:
            shutil.copy(CERTS.client_renewed.key_file, key)
        return 0

    tls = TLSOptions(ca_file=CERTS.ca_file, cert_file=cert, key_file=key)
    async with ScriptedServer(script) as server:
        url = f"tls://localhost:{server.port}"
        async with open_nats(url, tls=tls, reconnect=ReconnectPolicy(delay=delay)) as nc:
            with trio.fail_after(HANG_TIMEOUT):
                await nc.flush()
            assert nc.tls_info is not None
            expires = nc.tls_info.client_certificate_expires
    assert attempts == [1, 2]
    assert [int(serial, 16) for serial in shown] == [
        CERTS.client.leaf.serial_number,
        CERTS.client_renewed.leaf.serial_number,
    ]
    assert expires == CERTS.client_renewed.leaf.not_valid_after_utc


ASKS_NOTHING = """
import fcntl, sys, termios, trio
from trio_nats import ConnectError, TLSOptions, open_nats

if sys.stdin.isatty():
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)  # OpenSSL opens /dev/tty, whatever stdin is

async def main():
    tls = TLSOptions(cert_file=sys.argv[1], key_file=sys.argv[2])
    try:
        async with open_nats("tls://localhost:1", tls=tls):
            pass
    except ConnectError as error:
        print(type(error.attempts[0].error).__name__, error.attempts[0].error)

trio.run(main)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="needs a pseudo-terminal")
@pytest.mark.parametrize("interactive", [True, False])
async def test_an_encrypted_key_is_never_asked_for_on_the_terminal(interactive: bool) -> None:
    """OpenSSL's own way is to ask there, and to block until somebody answers."""
    terminal, theirs = os.openpty()
    try:
        with trio.fail_after(HANG_TIMEOUT):
            done = await trio.run_process(
                [
                    sys.executable,
                    "-c",
                    ASKS_NOTHING,
                    str(CERTS.client_encrypted.cert_file),
                    str(CERTS.client_encrypted.key_file),
                ],
                stdin=theirs if interactive else subprocess.DEVNULL,
                capture_stdout=True,
                capture_stderr=True,
                start_new_session=True,
            )
    finally:
        os.close(terminal)
        os.close(theirs)
    assert done.stdout.startswith(b"TLSConfigurationError the private key in ")
    assert b"is encrypted; pass key_password" in done.stdout
    assert done.stderr == b""


# --- PKCS#12 ------------------------------------------------------------------------------------


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where temporary files are made; there must be none in the end."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    yield folder
    assert list(folder.iterdir()) == []


def bundle(path: Path, certificate: Certificate | None, key: Certificate | None) -> TLSOptions:
    path.write_bytes(
        pkcs12.serialize_key_and_certificates(
            b"x",
            load_key(key.key_file) if key else None,
            certificate.leaf if certificate else None,
            None if certificate else [CERTS.client.leaf],
            serialization.NoEncryption(),
        )
    )
    return TLSOptions(ca_file=CERTS.ca_file, bundle_file=path)


async def test_a_bundles_key_is_out_of_reach(
    temporary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []
    load = ssl.SSLContext.load_cert_chain

    def watched(self: ssl.SSLContext, certfile: Path, **options: str) -> None:
        (folder,) = temporary.iterdir()
        seen.append((folder.stat().st_mode & 0o777, certfile.stat().st_mode & 0o777))
        assert b"ENCRYPTED PRIVATE KEY" in certfile.read_bytes()
        load(self, certfile, **options)

    monkeypatch.setattr(ssl.SSLContext, "load_cert_chain", watched)
    tls = TLSOptions(bundle_file=CERTS.client_bundle, bundle_password=BUNDLE_PASSWORD)
    material = await load_client_tls(tls)
    assert seen == [(0o700, 0o600)]
    assert material.expires == CERTS.client.leaf.not_valid_after_utc


async def test_no_variable_along_a_traceback_holds_a_bundles_password() -> None:
    tls = TLSOptions(bundle_file=CERTS.client_bundle, bundle_password="s3cret")
    with pytest.raises(TLSConfigurationError) as caught:
        await load_client_tls(tls)
    shown = traceback.TracebackException.from_exception(caught.value, capture_locals=True)
    assert "s3cret" not in "".join(shown.format())


@pytest.mark.parametrize("case", ["no key", "no certificate", "the key of another"])
@pytest.mark.usefixtures("temporary")
async def test_bundles_that_lack_something(tmp_path: Path, case: str) -> None:
    key = None if case == "no key" else load_key(CERTS.client.key_file)
    leaf = CERTS.client.leaf if case == "no key" else None
    others = [CERTS.client_renewed.leaf] if case == "the key of another" else None
    file = tmp_path / "b.p12"
    file.write_bytes(
        pkcs12.serialize_key_and_certificates(b"x", key, leaf, others, serialization.NoEncryption())
    )
    with pytest.raises(TLSConfigurationError) as caught:
        await load_client_tls(TLSOptions(bundle_file=file))
    expected = f"bundle_file {str(file)!r} lacks a certificate or its private key"
    assert str(caught.value) == expected


def weak() -> tuple[x509.Certificate, rsa.RSAPrivateKey]:
    key = rsa.generate_private_key(65537, 1024)
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "weak")])
    builder = x509.CertificateBuilder(name, name, key.public_key(), 5).not_valid_before(
        datetime(2001, 1, 1, tzinfo=UTC)
    )
    return builder.not_valid_after(datetime(2900, 1, 1, tzinfo=UTC)).sign(key, SHA256()), key


@pytest.mark.parametrize("form", ["files", "bundle"])
@pytest.mark.usefixtures("temporary")
async def test_keys_that_openssl_finds_too_weak(tmp_path: Path, form: str) -> None:
    certificate, key = weak()
    file = tmp_path / "weak"
    if form == "bundle":
        file.write_bytes(
            pkcs12.serialize_key_and_certificates(
                b"x", key, certificate, None, serialization.NoEncryption()
            )
        )
        tls = TLSOptions(bundle_file=file)
    else:
        pem = serialization.Encoding.PEM
        file.write_bytes(
            certificate.public_bytes(pem)
            + key.private_bytes(
                pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )
        tls = TLSOptions(cert_file=file, key_password="not needed")
    if ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).security_level < 2:
        pytest.skip("this OpenSSL is content with 1024 bits")
    with pytest.raises(TLSConfigurationError) as caught:
        await load_client_tls(tls)
    assert f"{str(file)!r}: OpenSSL does not accept it (EE_KEY_TOO_SMALL)" in str(caught.value)


async def test_bundles_need_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cryptography.hazmat.primitives", None)
    with pytest.raises(TLSConfigurationError, match=r"pip install 'trio-nats\[pkcs12\]'"):
        await load_client_tls(TLSOptions(bundle_file=CERTS.client_bundle_open))
