"""Convert a report to JSON. Its keys are documented in docs/doctor.md, and do not change."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from datetime import datetime

import msgspec

from ..._printable import printable_json
from .advice import advise
from .report import Certificates, Live, Report, Trial
from .steps import walk

__all__ = ["as_json"]

VERSION = 1


def as_json(report: Sequence[Report]) -> bytes:
    """Return one JSON object about all servers."""
    document = {
        "version": VERSION,
        "connects": any(one.live.connected for one in report),
        "servers": [_server(one) for one in report],
    }
    text = msgspec.json.format(msgspec.json.encode(document), indent=2).decode()
    return printable_json(text).encode()


def _server(report: Report) -> dict[str, object]:
    asked = report.asked
    return {
        "url": asked.url,
        "connects": report.live.connected,
        "examined_at": _moment(report.examined_at),
        "mode": str(asked.tls.mode),
        "acts_as": str(asked.acts_as),
        "name_checked": asked.name,
        "contradiction": asked.contradiction,
        "steps": [
            {"step": one.key, "status": one.status, "text": one.text, "details": list(one.details)}
            for one in walk(report)
        ],
        "findings": [_plain(one) for one in advise(report)],
        "modes": {str(one.mode): _trial(one) for one in report.trials},
        "addresses": [_plain(one) for one in report.dials],
        "lookup": _plain(report.lookup),
        "greeting": None if report.greeting is None else _greeting(report),
        "info": _info(report),
        "tls": None if report.look is None else _tls(report),
        "certificates": None if report.certificates is None else _certificates(report.certificates),
        "http": None if report.web is None else _plain(report.web),
        "login": _plain(asked.login),
        "connection": _live(report.live),
        "tls_ends_before_server": report.ends_tls_before_server,
    }


def _trial(trial: Trial) -> dict[str, object]:
    return {
        "acts_as": str(trial.acts_as),
        "outcome": trial.outcome,
        "error": trial.kind,
        "text": trial.text,
    }


def _greeting(report: Report) -> dict[str, object]:
    assert report.greeting is not None
    greeting = report.greeting
    return {"kind": greeting.kind, "seconds": greeting.seconds, "text": greeting.text}


def _info(report: Report) -> dict[str, object] | None:
    info = report.info
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


def _tls(report: Report) -> dict[str, object]:
    assert report.look is not None
    look = report.look
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
    """Convert a dataclass of plain fields to a dict, and times to text."""
    plain: dict[str, object] = {}
    for one in fields(value):  # type: ignore[arg-type]  # all of ours, and CertificateInfo, are one
        content = getattr(value, one.name)
        plain[one.name] = _moment(content) if isinstance(content, datetime) else content
    return plain


def _moment(moment: datetime | None) -> str | None:
    return None if moment is None else moment.isoformat(timespec="seconds")
