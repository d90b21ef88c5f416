"""A report for machines. Its keys are documented in docs/doctor.md, and stay as they are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from datetime import datetime

import msgspec

from ..._printable import printable_json
from .advice import advise
from .facts import Certificates, Facts, Live, Trial
from .steps import walk

__all__ = ["as_json"]

VERSION = 1


def as_json(facts: Sequence[Facts]) -> bytes:
    """One JSON object about all servers."""
    document = {
        "version": VERSION,
        "connects": any(one.live.connected for one in facts),
        "servers": [_server(one) for one in facts],
    }
    text = msgspec.json.format(msgspec.json.encode(document), indent=2).decode()
    return printable_json(text).encode()


def _server(facts: Facts) -> dict[str, object]:
    asked = facts.asked
    return {
        "url": asked.url,
        "connects": facts.live.connected,
        "examined_at": _moment(facts.examined_at),
        "mode": str(asked.tls.mode),
        "acts_as": str(asked.acts_as),
        "name_checked": asked.name,
        "contradiction": asked.contradiction,
        "steps": [
            {"step": one.key, "status": one.status, "text": one.text, "details": list(one.details)}
            for one in walk(facts)
        ],
        "findings": [_plain(one) for one in advise(facts)],
        "modes": {str(one.mode): _trial(one) for one in facts.trials},
        "addresses": [_plain(one) for one in facts.dials],
        "lookup": _plain(facts.lookup),
        "greeting": None if facts.greeting is None else _greeting(facts),
        "info": _info(facts),
        "tls": None if facts.look is None else _tls(facts),
        "certificates": None if facts.certificates is None else _certificates(facts.certificates),
        "http": None if facts.web is None else _plain(facts.web),
        "login": _plain(asked.login),
        "connection": _live(facts.live),
        "tls_ends_before_server": facts.ends_tls_before_server,
    }


def _trial(trial: Trial) -> dict[str, object]:
    return {
        "acts_as": str(trial.acts_as),
        "outcome": trial.outcome,
        "error": trial.kind,
        "text": trial.text,
    }


def _greeting(facts: Facts) -> dict[str, object]:
    assert facts.greeting is not None
    greeting = facts.greeting
    return {"kind": greeting.kind, "seconds": greeting.seconds, "text": greeting.text}


def _info(facts: Facts) -> dict[str, object] | None:
    info = facts.info
    if info is None:
        return None
    return {
        "server_id": info.server_id,
        "server_name": info.server_name,
        "version": info.version,
        "auth_required": info.auth_required,
        "tls_required": info.tls_required,
        "tls_available": info.tls_available,
        "tls_verify": info.tls_verify,
        "nonce": info.nonce is not None,
        "headers": info.headers,
        "max_payload": info.max_payload,
        "jetstream": info.jetstream,
        "domain": info.domain,
        "cluster": info.cluster,
        "lame_duck": info.ldm,
        "client_ip": info.client_ip,
    }


def _tls(facts: Facts) -> dict[str, object]:
    assert facts.look is not None
    look = facts.look
    return {
        "version": look.version,
        "cipher": look.cipher,
        "asks_for_certificate": look.asks_for_certificate,
        "info_inside": look.info_inside is not None,
        "error": look.kind,
        "text": look.error,
    }


def _certificates(found: Certificates) -> dict[str, object]:
    return {
        "trust": found.trust,
        "text": found.text,
        "name_matches": found.name_matches,
        "chain": [_plain(one) for one in found.chain],
    }


def _live(live: Live) -> dict[str, object]:
    return {
        "connected": live.connected,
        "phase": live.phase,
        "error": live.kind,
        "text": live.text,
        "said": live.said,
        "tls_version": live.tls_version,
        "cipher": live.cipher,
        "verified_name": live.verified_name,
        "client_certificate_expires": _moment(live.certificate_expires),
        "round_trips": list(live.round_trips),
        "jetstream": live.jetstream,
        "jetstream_text": live.jetstream_text,
        "lost": live.lost,
    }


def _plain(value: object) -> dict[str, object]:
    """A dataclass of plain fields; dates as text."""
    plain: dict[str, object] = {}
    for one in fields(value):  # type: ignore[arg-type]  # all of ours, and CertificateInfo, are one
        content = getattr(value, one.name)
        plain[one.name] = _moment(content) if isinstance(content, datetime) else content
    return plain


def _moment(moment: datetime | None) -> str | None:
    return None if moment is None else moment.isoformat(timespec="seconds")
