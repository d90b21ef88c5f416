"""All kinds of servers that the doctor explains, and the client options for each."""

from __future__ import annotations

import socket
import ssl
import warnings
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from tests.support.certs import Certificate, certificates, server_context
from tests.support.jwts import Key, Operator
from tests.support.peer import Peer, ScriptedServer
from tests.support.proxies import PlainProxy, TLSTerminatingProxy
from tests.support.scripts import HTTP_ANSWER, close_at_once, says, stall_at_once, tls_available
from trio_nats import JWT, Credentials, NKey, TLSMode, TLSOptions, UserPassword
from trio_nats.cli.doctor.client import Client
from trio_nats.testing import NatsServer, ServerCluster, ServerTLS, ServerWebSocket

__all__ = ["KINDS", "PASSWORD", "TOKEN", "Kind", "only_old_tls"]

CERTS = certificates()
TRUST = TLSOptions(ca_file=CERTS.ca_file)
MINE = replace(TRUST, cert_file=CERTS.client.cert_file, key_file=CERTS.client.key_file)

PASSWORD = "correct-horse-battery"
TOKEN = "t0ken-of-great-value"

SILENCE = 1.0
"""Seconds to wait for servers that never send anything."""


@dataclass(frozen=True)
class Kind:
    """A server to examine, with client options."""

    serve: Callable[[], AbstractAsyncContextManager[str]]
    """Runs the server and yields its URL."""
    client: Client
    connects: bool = False


def tls_block(certificate: Certificate = CERTS.server, **options: Any) -> ServerTLS:
    if options.get("verify"):
        options.setdefault("ca_file", CERTS.ca_file)
    return ServerTLS(certificate.cert_file, certificate.key_file, **options)


def nats(scheme: str = "nats", userinfo: str = "", **options: Any) -> Callable[[], Any]:
    """A real server."""

    @asynccontextmanager
    async def serve() -> AsyncIterator[str]:
        async with NatsServer(**options) as server:
            yield f"{scheme}://{userinfo}localhost:{server.port}"

    return serve


def other_port(of: str, scheme: str = "nats", **options: Any) -> Callable[[], Any]:
    """Another port of a real server."""

    @asynccontextmanager
    async def serve() -> AsyncIterator[str]:
        async with NatsServer(**options) as server:
            port = getattr(server, of).rpartition(":")[2]
            yield f"{scheme}://localhost:{port}"

    return serve


def scripted(*scripts: Callable[[Peer], Any], scheme: str = "nats") -> Callable[[], Any]:
    @asynccontextmanager
    async def serve() -> AsyncIterator[str]:
        async with ScriptedServer(*scripts) as server:
            yield f"{scheme}://localhost:{server.port}"

    return serve


@asynccontextmanager
async def behind_tls_proxy() -> AsyncIterator[str]:
    async with (
        NatsServer() as server,
        TLSTerminatingProxy(server.port, server_context(CERTS.server)) as proxy,
    ):
        yield f"nats://localhost:{proxy.port}"


@asynccontextmanager
async def tls_that_cannot_finish() -> AsyncIterator[str]:
    async with (
        NatsServer(config="tls {}\nallow_non_tls: true") as server,
        PlainProxy(server.port) as proxy,
    ):
        yield f"nats://localhost:{proxy.port}"


@asynccontextmanager
async def closed_port() -> AsyncIterator[str]:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))  # taken, but nobody listens
        yield f"nats://localhost:{sock.getsockname()[1]}"


@asynccontextmanager
async def unresolvable() -> AsyncIterator[str]:
    yield "nats://no-such-host.invalid:4222"


def only_old_tls() -> Callable[[], Any]:
    """A server that supports at most TLS 1.1."""

    context = server_context(CERTS.server)
    context.minimum_version = ssl.TLSVersion.MINIMUM_SUPPORTED
    with warnings.catch_warnings(action="ignore", category=DeprecationWarning):
        context.maximum_version = ssl.TLSVersion.TLSv1_1
    context.set_ciphers("DEFAULT:@SECLEVEL=0")
    return scripted(tls_available(context))


@cache
def self_signed() -> Certificate:
    """A self-signed certificate, as ``openssl req -x509`` creates it."""
    import datetime

    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(datetime.datetime(2000, 1, 1, tzinfo=datetime.UTC))
        .not_valid_after(datetime.datetime(3000, 1, 1, tzinfo=datetime.UTC))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .sign(key, hashes.SHA256())
    )
    cert_file, key_file = CERTS.directory / "self.pem", CERTS.directory / "self.key"
    cert_file.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    key_file.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    return Certificate(cert_file, key_file, cert_file)


@cache
def operator() -> Operator:
    return Operator()


def creds_file() -> Path:
    path = CERTS.directory / "user.creds"
    path.write_text(operator().user("joe").creds)
    return path


def expired_jwt() -> JWT:
    user = operator().user("joe", expires=1_000_000_000)
    return JWT(user.jwt, seed=user.seed)


USER = {"user": "joe", "password": PASSWORD}
NO_REPLIES = (
    f"authorization {{ users [{{ user: joe, password: {PASSWORD}, "
    'permissions: { subscribe: ["orders.>"] } }] }'
)
JOE = UserPassword("joe", PASSWORD)


def client(tls: TLSOptions | None = None, **options: Any) -> Client:
    return Client(tls=tls or TLSOptions(), **options)


def silent(tls: TLSOptions | None = None, **options: Any) -> Client:
    return client(tls, connect_timeout=4 * SILENCE, info_timeout=SILENCE, **options)


def mode(mode: TLSMode, tls: TLSOptions | None = None) -> TLSOptions:
    return replace(tls or TLSOptions(), mode=mode)


KINDS: dict[str, Kind] = {
    # NATS servers
    "none": Kind(nats(), client(), connects=True),
    "tls": Kind(nats(tls=tls_block()), client(TRUST), connects=True),
    "allow_non_tls": Kind(nats(tls=tls_block(allow_non_tls=True)), client(TRUST), connects=True),
    "verify": Kind(nats("tls", tls=tls_block(verify=True)), client(MINE), connects=True),
    "first": Kind(nats(tls=tls_block(handshake_first=True)), silent(TRUST), connects=True),
    "first_auto": Kind(nats(tls=tls_block(handshake_first="1s")), client(TRUST), connects=True),
    "tls_proxy": Kind(behind_tls_proxy, silent(TRUST), connects=True),
    "plain_proxy": Kind(tls_that_cannot_finish, client()),
    "ws": Kind(other_port("ws_url", "ws", websocket=ServerWebSocket()), client(), connects=True),
    "wss": Kind(
        other_port("ws_url", "wss", websocket=ServerWebSocket(tls=tls_block())),
        client(TRUST),
        connects=True,
    ),
    # peers that are not NATS servers
    "http": Kind(scripted(says(HTTP_ANSWER)), client()),
    "monitoring": Kind(other_port("monitor_url"), silent()),
    "ws_port": Kind(other_port("ws_url", websocket=ServerWebSocket()), silent()),
    "nats_port": Kind(nats("ws"), client()),
    "ssh": Kind(scripted(says(b"SSH-2.0-OpenSSH_9.6\r\n")), client()),
    "closes": Kind(scripted(close_at_once()), client()),
    "silent": Kind(scripted(stall_at_once()), silent()),
    "closed_port": Kind(closed_port, client()),
    "unresolvable": Kind(unresolvable, client()),
    "route_port": Kind(
        other_port("cluster_url", cluster=ServerCluster("c1")),
        client(),
    ),
    # modes that do not work with the server
    "require_none": Kind(nats("tls"), client()),
    "implicit_none": Kind(nats(), client(mode(TLSMode.IMPLICIT))),
    "implicit_tls": Kind(nats(tls=tls_block()), client(mode(TLSMode.IMPLICIT, TRUST))),
    "disable_tls": Kind(nats(tls=tls_block()), client(mode(TLSMode.DISABLE))),
    "disable_first": Kind(nats(tls=tls_block(handshake_first=True)), silent(mode(TLSMode.DISABLE))),
    "prefer_first": Kind(nats(tls=tls_block(handshake_first=True)), silent()),
    "prefer_tls_proxy": Kind(behind_tls_proxy, silent(mode(TLSMode.PREFER, TRUST))),
    "contradiction": Kind(nats("tls", tls=tls_block()), client(mode(TLSMode.DISABLE))),
    # certificates
    "untrusted": Kind(nats("tls", tls=tls_block()), client()),
    "untrusted_other_ca": Kind(
        nats("tls", tls=tls_block()), client(TLSOptions(ca_file=CERTS.other_ca_file))
    ),
    "self_signed": Kind(nats("tls", tls=tls_block(self_signed())), client()),
    "wrong_name": Kind(nats("tls", tls=tls_block(CERTS.server_other_host)), client(TRUST)),
    "wrong_name_untrusted": Kind(nats("tls", tls=tls_block(CERTS.server_other_host)), client()),
    "expired": Kind(nats("tls", tls=tls_block(CERTS.server_expired)), client(TRUST)),
    "not_yet_valid": Kind(nats("tls", tls=tls_block(CERTS.server_not_yet_valid)), client(TRUST)),
    "skip_verify": Kind(
        nats("tls", tls=tls_block()), client(TLSOptions(insecure_skip_verify=True)), connects=True
    ),
    "chain": Kind(nats("tls", tls=tls_block(CERTS.server_chained)), client(TRUST), connects=True),
    "old_tls": Kind(only_old_tls(), client(TRUST)),
    "tls_1_2": Kind(
        scripted(
            lambda peer: tls_available(
                server_context(CERTS.server, maximum_version=ssl.TLSVersion.TLSv1_2)
            )(peer)
        ),
        client(replace(TRUST, minimum_version=ssl.TLSVersion.TLSv1_3)),
    ),
    "missing_ca_file": Kind(
        nats("tls", tls=tls_block()), client(TLSOptions(ca_file=CERTS.missing_file))
    ),
    "certificate_missing": Kind(nats("tls", tls=tls_block(verify=True)), client(TRUST)),
    "certificate_refused": Kind(
        nats("tls", tls=tls_block(verify=True)),
        client(
            replace(
                TRUST,
                cert_file=CERTS.client_other_ca.cert_file,
                key_file=CERTS.client_other_ca.key_file,
            )
        ),
    ),
    "certificate_expired": Kind(
        nats("tls", tls=tls_block(verify=True)),
        client(
            replace(
                TRUST,
                cert_file=CERTS.client_expired.cert_file,
                key_file=CERTS.client_expired.key_file,
            )
        ),
    ),
    "certificate_unused": Kind(nats("tls", tls=tls_block()), client(MINE), connects=True),
    "first_verify": Kind(
        nats("tls", tls=tls_block(verify=True, handshake_first=True)), silent(MINE), connects=True
    ),
    "first_verify_missing": Kind(
        nats(tls=tls_block(verify=True, handshake_first=True)),
        silent(mode(TLSMode.PREFER, TRUST)),
    ),
    "wss_verify": Kind(
        other_port("ws_url", "wss", websocket=ServerWebSocket(tls=tls_block(verify=True))),
        client(TRUST),
    ),
    # logging in
    "login": Kind(nats(jetstream=True, name="kitchen", **USER), client(auth=JOE), connects=True),
    "login_missing": Kind(nats(**USER), client()),
    "login_refused": Kind(nats(**USER), client(auth=UserPassword("joe", "mistyped-" + PASSWORD))),
    "login_url": Kind(nats(userinfo=f"{TOKEN}@", token=TOKEN), client(), connects=True),
    "login_needless": Kind(nats(), client(auth=JOE), connects=True),
    "no_replies": Kind(nats(config=NO_REPLIES), client(auth=JOE), connects=True),
    "jwt_expired": Kind(nats(config=operator().config), client(auth=expired_jwt())),
    "nkey_unknown": Kind(nats(**USER), client(auth=NKey(seed=Key("user").seed))),
    "creds_missing": Kind(closed_port, client(auth=Credentials(file=CERTS.missing_file))),
    "creds": Kind(
        nats(config=operator().config), client(auth=Credentials(file=creds_file())), connects=True
    ),
}
