"""Problems with peers that are not a NATS server, or not at this port."""

from __future__ import annotations

from collections.abc import Iterator

from ...servers import Scheme
from .finding import Finding, problem
from .open_nats_call import Call, url_with
from .report import Report

__all__ = ["wrong_peer"]


def wrong_peer(report: Report, call: Call) -> Iterator[Finding]:
    """Explain what kind of peer answers, if it sends no INFO."""
    if report.info is not None or not report.reached:
        return
    asked, web, greeting = report.asked, report.web, report.greeting
    if web is not None and web.is_nats:
        scheme: Scheme = "wss" if web.over_tls else "ws"
        yield problem(
            "websocket-port",
            f"Port {asked.port} is the server's WebSocket port.",
            f"Use a {scheme}:// URL, or the server's port for plain NATS connections:",
            call.change(url_with(asked, scheme=scheme)),
        )
    elif web is not None:
        what = (
            "It looks like the monitoring port of a NATS server."
            if web.is_monitoring
            else "It is a web server, or a proxy for web servers."
        )
        yield problem(
            "http",
            f'Port {asked.port} speaks HTTP, not NATS: it answered "{web.status}". {what}',
            "Use the NATS server's client port, 4222 unless configured otherwise:",
            call.change(url_with(asked, port=4222)),
        )
    elif greeting is not None and greeting.kind == "error":
        yield problem(
            "turned-away",
            f'The server rejects clients: "{greeting.text}".',
            "Ask the server's operator to check its log.",
        )
    elif greeting is not None and greeting.kind == "nonsense":
        yield problem(
            "nonsense",
            f"The peer sent an invalid INFO: {greeting.text}.",
            "Check the address. If this is a NATS server, something in between changes its data.",
        )
    elif greeting is not None and greeting.kind == "foreign":
        yield problem(
            "not-nats",
            f"The peer on port {asked.port} is not a NATS server. It sent {greeting.text}.",
            "Check the address and the port. A NATS server sends INFO first.",
        )
    else:
        yield _silent(report, call)


def _silent(report: Report, call: Call) -> Finding:
    asked, greeting = report.asked, report.greeting
    if report.speaks_tls:
        return problem(
            "silent-inside-tls",
            f"Port {asked.port} speaks TLS, but sends no INFO inside it.",
            "Check the address and the port. If a proxy terminates TLS here, check that the NATS "
            "server behind it is running.",
        )
    if greeting is not None and greeting.kind == "closed":
        return problem(
            "closed-at-once",
            f"Port {asked.port} accepts the connection and closes it without sending anything.",
            "If a proxy or load balancer listens there, check that the NATS server behind it is "
            "running. Otherwise check the address and the port.",
        )
    return problem(
        "silent",
        f"Port {asked.port} accepts the connection, but sends nothing: no NATS, no TLS, no HTTP.",
        "Check the address and the port. If they are correct, the server or a proxy in front of "
        "it hangs and may need a restart.",
    )
