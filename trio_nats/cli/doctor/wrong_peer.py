"""Problems with peers that are not a NATS server, or not at this port."""

from __future__ import annotations

from collections.abc import Iterator

from ...servers import Scheme
from .finding import Finding, problem
from .report import Report
from .wording import Call, url_with

__all__ = ["wrong_peer"]


def wrong_peer(report: Report, call: Call) -> Iterator[Finding]:
    """Explain what answers, if it does not introduce itself as a NATS server."""
    if report.info is not None or not report.reached:
        return
    asked, web, greeting = report.asked, report.web, report.greeting
    if web is not None and web.is_nats:
        scheme: Scheme = "wss" if web.over_tls else "ws"
        yield problem(
            "websocket-port",
            f"Port {asked.port} is the server's port for WebSockets, as browsers use it.",
            f"Use a {scheme}:// URL, or the server's port for ordinary clients:",
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
            "Use the NATS server's port for clients, 4222 unless configured otherwise:",
            call.change(url_with(asked, port=4222)),
        )
    elif greeting is not None and greeting.kind == "error":
        yield problem(
            "turned-away",
            f'The server turns clients away at once: "{greeting.text}".',
            "Ask the server's operator; its log says more.",
        )
    elif greeting is not None and greeting.kind == "nonsense":
        yield problem(
            "nonsense",
            f"The server introduces itself in a way no NATS server does: {greeting.text}.",
            "Check the address. If this is a NATS server, something between here and there "
            "changes what it says.",
        )
    elif greeting is not None and greeting.kind == "foreign":
        yield problem(
            "not-nats",
            f"Something else than NATS answers on port {asked.port}. It begins with "
            f"{greeting.text}.",
            "Check address and port. A NATS server begins with INFO.",
        )
    else:
        yield _silent(report, call)


def _silent(report: Report, call: Call) -> Finding:
    asked, greeting = report.asked, report.greeting
    if report.speaks_tls:
        return problem(
            "silent-inside-tls",
            f"Port {asked.port} speaks TLS, but says nothing inside it, as a NATS server would.",
            "Check address and port. If a proxy ends TLS here, check that the NATS server behind "
            "it is up.",
        )
    if greeting is not None and greeting.kind == "closed":
        return problem(
            "closed-at-once",
            f"Port {asked.port} takes the connection and closes it without a word.",
            "If a proxy or load balancer listens there, check that the NATS server behind it is "
            "up. Otherwise check address and port.",
        )
    return problem(
        "silent",
        f"Port {asked.port} takes the connection and then says nothing: no NATS, no TLS, no HTTP.",
        "Check address and port. If they are right, the server, or the proxy in front of it, "
        "hangs and may need a restart.",
    )
