"""Examine a server: name resolution, TCP, greeting, TLS, modes and a real connection.

Only the real connection, made with :func:`open_nats` and the user's own options, logs in.
All other results come from probes that end before CONNECT, see
:mod:`trio_nats._transport.probe`.
"""

from __future__ import annotations

import ssl
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime

import trio_nats
from trio_nats._nursery import open_nursery

from ..._blocking import run_in_thread
from ..._transport.connector import ConnectorSettings
from ..._transport.probe import ProbeResult, probe
from ..._transport.tls_info import client_certificate_expiry
from ..._transport.tls_policy import check_server, effective_mode
from ...errors import ClientCertificateError, ConfigurationError
from ...options import ProtocolLimits, TLSMode, TLSOptions, WebSocketOptions
from ...servers import Server, over_tls, parse_servers, with_userinfo
from .client import Client
from .live import connect
from .login import read_login
from .probes import ask_for_websocket, dial_each, greet, look_up, unverified_context
from .redaction import Redaction
from .report import Asked, Certificates, Greeting, Live, Look, Outcome, Report, Trial, Trust, Web

__all__ = ["examine", "examine_all", "servers_of"]

QUICK = 1.0
"""Seconds to wait for the first bytes if none are expected."""


async def examine_all(servers: str | Sequence[str], client: Client) -> tuple[Report, ...]:
    """Examine each of the servers, one after the other.

    Raises :exc:`ConfigurationError` for invalid URLs.
    """
    return tuple([await examine(server, client) for server in servers_of(servers)])


def servers_of(servers: str | Sequence[str]) -> Sequence[Server]:
    """Parse the servers as a connection does: URLs without credentials use the first ones."""
    parsed = parse_servers(servers)
    first = next((server for server in parsed if server.has_userinfo), None)
    shared = [with_userinfo(server, first) for server in parsed]
    return [over_tls(server) if server.userinfo_needs_tls else server for server in shared]


async def examine(server: Server, client: Client) -> Report:
    """Examine one server. Errors are part of the report. If cancelled, connections are closed."""
    return await _Examination(server, client).run()


class _Examination:
    def __init__(self, server: Server, client: Client) -> None:
        self._server = server
        self._client = client
        self._seconds = client.connect_timeout
        self._info_timeout = min(client.info_timeout, client.connect_timeout)
        self._redaction = Redaction()
        self._probes: dict[TLSMode, ProbeResult] = {}
        self._greeting: Greeting | None = None
        self._look: ProbeResult | None = None
        self._strict: ProbeResult | None = None

    async def run(self) -> Report:
        asked = await self._asked()
        lookup, targets = await look_up(self._server, self._seconds)
        report = Report(
            asked=asked,
            examined_at=datetime.now(UTC),
            lookup=replace(lookup, error=self._redaction(lookup.error)),
            live=Live(connected=False),
        )
        report = replace(report, dials=await dial_each(targets, self._seconds))
        if report.reached:
            report = await self._probe(report)
        report = replace(report, trials=self._trials(report))
        live = await connect(self._server, self._client, self._redaction)
        return replace(report, live=live)

    async def _asked(self) -> Asked:
        server, tls = self._server, self._client.tls
        login = await read_login(
            server, self._client.auth, self._redaction, self._client.connect_timeout
        )
        contradiction = ""
        try:
            check_server(server, tls)
        except ConfigurationError as error:
            contradiction = self._redaction(error)
        return Asked(
            url=server.url,
            scheme=server.scheme,
            host=server.host,
            port=server.port,
            tls=tls,
            acts_as=effective_mode(server.scheme, tls.mode, tls.has_material, False),
            name=tls.server_hostname or server.host.partition("%")[0].removesuffix("."),
            login=login,
            plaintext_auth=self._client.plaintext_auth,
            timeout=self._client.connect_timeout,
            certificate_expires=await _own_expiry(tls),
            contradiction=contradiction,
        )

    # --- probing ---------------------------------------------------------------------------------

    async def _probe(self, report: Report) -> Report:
        """Run all probes concurrently, because some servers take seconds to time out."""
        async with open_nursery() as nursery:
            nursery.start_soon(self._listen)
            nursery.start_soon(self._look_at_tls)
            nursery.start_soon(self._check_certificate)
            for mode in dict.fromkeys(self._modes(report.asked).values()):
                if isinstance(mode, TLSMode):
                    nursery.start_soon(self._try_mode, mode, report.asked)
        look = self._described(self._look)
        info = next((one.info for one in self._probes.values() if one.info is not None), None)
        report = replace(
            report,
            greeting=self._greeting,
            look=look,
            probed_info=None if info is None else self._redaction.info(info),
        )
        await self._try_implicit_again(report)
        report = replace(report, certificates=await self._certificates(report))
        return replace(report, web=await self._ask_in_http(report))

    def _settings(self, tls: TLSOptions) -> ConnectorSettings:
        return ConnectorSettings(
            tls=tls,
            auth=None,
            name=None,
            echo=True,
            connect_timeout=self._seconds,
            plaintext_auth="allow",
            limits=ProtocolLimits(),
            version=trio_nats.__version__,
            websocket=WebSocketOptions(),
        )

    async def _probe_mode(self, tls: TLSOptions) -> ProbeResult:
        return await probe(self._server, self._settings(tls), info_timeout=self._info_timeout)

    async def _shake_hands(self, tls: TLSOptions) -> ProbeResult:
        """Probe as ``tls://``: a WebSocket server sends nothing before a request."""
        server = replace(self._server, scheme="tls", path="")
        settings = self._settings(replace(tls, mode=TLSMode.REQUIRE))
        only_tls = self._server.is_websocket
        return await probe(server, settings, only_tls=only_tls, info_timeout=self._info_timeout)

    async def _listen(self) -> None:
        # A WebSocket server waits for a request. Any other kind may send data first.
        info_timeout = QUICK if self._server.is_websocket else self._info_timeout
        greeting = await greet(self._server, self._seconds, info_timeout)
        if greeting is not None:
            info = None if greeting.info is None else self._redaction.info(greeting.info)
            self._greeting = replace(greeting, info=info, text=self._redaction(greeting.text))

    async def _look_at_tls(self) -> None:
        """Handshake without any checks, and without a client certificate."""
        name = self._client.tls.server_hostname
        context = unverified_context()
        self._look = await self._shake_hands(TLSOptions(context=context, server_hostname=name))

    async def _check_certificate(self) -> None:
        """Handshake with all checks, whatever the mode, and without a client certificate."""
        options = replace(without_certificate(self._client.tls), insecure_skip_verify=False)
        self._strict = await self._shake_hands(options)

    async def _try_mode(self, mode: TLSMode, asked: Asked) -> None:
        tls = self._client.tls
        if asked.acts_as is TLSMode.DISABLE:
            # With the user's own options no client certificate would ever be presented.
            tls = without_certificate(tls)
        self._probes[mode] = await self._probe_mode(replace(tls, mode=mode))

    async def _try_implicit_again(self, report: Report) -> None:
        """Repeat a probe: with ``handshake_first: auto`` a server waits 50 ms only."""
        for _ in range(3):
            tried = self._probes.get(TLSMode.IMPLICIT)
            inside = report.look is not None and report.look.info_inside is not None
            if tried is None or tried.error is None or tried.tls is not None or not inside:
                return
            await self._try_mode(TLSMode.IMPLICIT, report.asked)

    async def _ask_in_http(self, report: Report) -> Web | None:
        """Try HTTP if the peer does not speak NATS: it may be a WebSocket or monitoring port."""
        if report.info is not None:
            return None
        web = await ask_for_websocket(
            self._server, over_tls=report.speaks_tls, seconds=self._info_timeout
        )
        return None if web is None else replace(web, status=self._redaction(web.status))

    # --- interpreting the probes -----------------------------------------------------------------

    def _described(self, looked: ProbeResult | None) -> Look | None:
        if looked is None:
            return None
        is_inside = looked.tls is not None and looked.tls.info_inside_tls
        inside = looked.info if is_inside and not self._server.is_websocket else None
        return Look(
            version=looked.tls.version if looked.tls else "",
            cipher=looked.tls.cipher if looked.tls else "",
            asks_for_certificate=looked.asked,
            info_inside=None if inside is None else self._redaction.info(inside),
            led_by_info=looked.tls is not None and not looked.tls.info_inside_tls,
            error="" if looked.error is None else self._redaction(looked.error),
            kind="" if looked.error is None else type(looked.error).__name__,
        )

    async def _certificates(self, report: Report) -> Certificates | None:
        looked, strict = self._look, self._strict
        if looked is None or strict is None or not (looked.chain or strict.chain):
            return None
        chain = tuple(map(self._redaction.certificate, strict.chain or looked.chain))
        trust, text = verdict(strict)
        matches: bool | None = None
        if trust in ("ok", "expired", "early"):
            matches = True  # OpenSSL checks the name before the dates
        elif trust == "name":
            matches = False
        elif trust in ("untrusted", "self-signed"):
            matches = await self._name_matches(strict)
        return Certificates(
            chain=chain, trust=trust, text=self._redaction(text), name_matches=matches
        )

    async def _name_matches(self, strict: ProbeResult) -> bool | None:
        """Whether the name matches, even if the certificate has other faults."""
        der = strict.leaf
        if der is None:
            return None
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.verify_flags |= ssl.VerifyFlags.VERIFY_X509_PARTIAL_CHAIN
        context.load_verify_locations(cadata=der)
        name = self._client.tls.server_hostname
        options = TLSOptions(context=context, server_hostname=name)
        trust, _ = verdict(await self._shake_hands(options))
        return {"ok": True, "expired": True, "early": True, "name": False}.get(trust)

    def _modes(self, asked: Asked) -> dict[TLSMode, TLSMode | ConfigurationError]:
        """Return what each mode acts as, or why it contradicts the options."""
        modes: dict[TLSMode, TLSMode | ConfigurationError] = {}
        for mode in TLSMode:
            modes[mode] = effective_mode(asked.scheme, mode, asked.tls.has_material, False)
            try:
                check_server(self._server, replace(asked.tls, mode=mode))
            except ConfigurationError as error:
                modes[mode] = error
        return modes

    def _trials(self, report: Report) -> tuple[Trial, ...]:
        modes = self._modes(report.asked)
        return tuple(self._trial(mode, acts_as, report) for mode, acts_as in modes.items())

    def _trial(self, mode: TLSMode, acts_as: TLSMode | ConfigurationError, report: Report) -> Trial:
        tls = report.asked.tls
        if isinstance(acts_as, ConfigurationError):
            text, kind = self._redaction(acts_as), type(acts_as).__name__
            return Trial(mode=mode, acts_as=mode, outcome="refused", kind=kind, text=text)
        tried = self._probes.get(acts_as)
        if tried is None:
            return Trial(mode=mode, acts_as=acts_as, outcome="unknown", text="not reached")
        if tried.error is None:
            outcome: Outcome = "plaintext" if tried.tls is None else "tls"
            return Trial(mode=mode, acts_as=acts_as, outcome=outcome)
        hidden = report.asked.acts_as is TLSMode.DISABLE and without_certificate(tls) != tls
        if hidden and isinstance(tried.error, ClientCertificateError):
            text = "this depends on your client certificate, which DISABLE never sends"
            return Trial(mode=mode, acts_as=acts_as, outcome="unknown", text=text)
        return Trial(
            mode=mode,
            acts_as=acts_as,
            outcome="fails",
            kind=type(tried.error).__name__,
            text=self._redaction.about(self._server, tried.error),
        )


async def _own_expiry(tls: TLSOptions) -> datetime | None:
    if tls.cert_file is None:
        return None
    return await run_in_thread(client_certificate_expiry, tls.cert_file, files=(tls.cert_file,))


def without_certificate(tls: TLSOptions) -> TLSOptions:
    """Return the options without a client certificate. A given ``context`` is not changed."""
    return replace(
        tls,
        cert_file=None,
        key_file=None,
        key_password=None,
        bundle_file=None,
        bundle_password=None,
    )


# OpenSSL's X509_V_ERR_*.
_FAULTS: dict[int, Trust] = {
    2: "untrusted",  # UNABLE_TO_GET_ISSUER_CERT
    9: "early",
    10: "expired",
    18: "self-signed",  # DEPTH_ZERO_SELF_SIGNED_CERT
    19: "untrusted",  # SELF_SIGNED_CERT_IN_CHAIN
    20: "untrusted",  # UNABLE_TO_GET_ISSUER_CERT_LOCALLY
    21: "untrusted",  # UNABLE_TO_VERIFY_LEAF_SIGNATURE
    27: "untrusted",  # CERT_UNTRUSTED
    62: "name",  # HOSTNAME_MISMATCH
    64: "name",  # IP_ADDRESS_MISMATCH
}


def verdict(probed: ProbeResult) -> tuple[Trust, str]:
    """Return the result for the server's certificate, and OpenSSL's text for it."""
    error: BaseException | None = probed.error
    while error is not None:
        if isinstance(error, ssl.SSLCertVerificationError):
            return _FAULTS.get(error.verify_code, "other"), error.verify_message
        if isinstance(error, ClientCertificateError):
            return "ok", ""  # The client certificate is checked after the server's.
        error = error.__cause__
    if probed.tls is not None:
        return "ok", ""
    return "unknown", ""
