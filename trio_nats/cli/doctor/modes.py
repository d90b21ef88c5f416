"""What each TLS mode comes to, in half a line."""

from __future__ import annotations

from ...options import TLSMode
from .facts import Facts, Trial

__all__ = ["summary"]


def summary(trial: Trial, facts: Facts) -> str:
    """Why ``trial`` went as it did, without a full stop; empty if there is nothing to say."""
    parts: list[str] = []
    if trial.acts_as is not trial.mode and not facts.asked.is_websocket:
        parts.append(f"as {trial.acts_as}")
    if trial.outcome in ("fails", "unknown"):
        parts.append(_why(trial, facts))
    elif trial.outcome == "refused":
        parts.append(f"a {facts.asked.scheme}:// URL does not go with it; nothing is dialled")
    return ": ".join(parts)


def _why(trial: Trial, facts: Facts) -> str:
    info = facts.info
    match trial.kind:
        case "TLSNotOfferedError":
            return "the server offers no TLS"
        case "TLSRequiredError":
            return "the server insists on TLS"
        case "NoInfoError" if facts.waits_for_handshake:
            return "the server waits for the handshake, and the client for INFO"
        case "TLSHandshakeError" if trial.acts_as is TLSMode.IMPLICIT and _spoke_first(facts):
            if info is not None and not info.offers_tls:
                return "the server offers no TLS"
            return "the server speaks before the handshake"
        case "TLSCertificateError":
            return "the server's certificate is not accepted"
        case "ClientCertificateError":
            return "the server wants a client certificate that it accepts"
        case _:
            # Once is enough, and the URL stands above.
            return trial.text.replace(facts.asked.url, "the server").removesuffix(".")


def _spoke_first(facts: Facts) -> bool:
    return facts.greeting is not None and facts.greeting.info is not None
