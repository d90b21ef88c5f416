"""Replace everything in a report that differs between runs and machines."""

from __future__ import annotations

import datetime
import re
from dataclasses import fields, is_dataclass, replace
from typing import Any

import msgspec

from trio_nats._transport.tls_info import CertificateInfo
from trio_nats.cli.doctor.report import Dial, Greeting, Live, Lookup, Report
from trio_nats.options import TLSOptions

__all__ = ["stable"]

NOW = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)
_PORT = 4222
_NOTES = re.compile(r"#[\w-]{16}")
_PATHS = re.compile(r"/\S*/trio_nats-certs-\w+/")
_KEYS = re.compile(r"\b[AUN][A-Z2-7]{55}\b")
_CIPHERS = re.compile(r"\b(TLS_\w+|(ECDHE|DHE|AES)[A-Z0-9-]+)\b")


def stable(report: Report) -> Report:
    """Return the report with constants in place of everything that varies.

    * The port is 4222 and the date 2026-01-01, so that days until expiry do not change.
    * Measured times are 1 ms, and round trips 0.25 ms. Silence lasts 1 s.
    * The server has the version 2.99.0 and the ID SERVER-ID. Public keys are their prefix and X.
    * The cipher is one of TLS 1.3. Random parts of trustme's subjects are #X, and its version is
      left out.
    * Fingerprints are zeros, and certificates are in /certs.
    * ``localhost`` has only the address 127.0.0.1.
    """
    port = report.asked.port
    report = _mapped(report, lambda text: _text(text, port))
    lookup, dials = report.lookup, report.dials
    if "127.0.0.1" in lookup.addresses:
        lookup = replace(lookup, addresses=("127.0.0.1",))
        dials = tuple(dial for dial in dials if dial.address == "127.0.0.1")
    greeting, look = report.greeting, report.look
    if greeting is not None and look is not None and look.info_inside is not None:
        # INFO came both before and inside TLS, so handshake_first is a duration.
        greeting = replace(greeting, seconds=1.0)
    return replace(
        report,
        greeting=greeting,
        asked=replace(report.asked, port=_PORT),
        examined_at=NOW,
        lookup=lookup,
        dials=dials,
    )


def _text(text: str, port: int) -> str:
    text = re.sub(rf"\b{port}\b", str(_PORT), text)
    text = _NOTES.sub("#X", text)
    text = re.sub(r"trustme v[\d.]+", "trustme", text)
    text = _PATHS.sub("/certs/", text)
    text = _KEYS.sub(lambda found: found[0][0] + "X" * 9, text)
    return _CIPHERS.sub("TLS_AES_128_GCM_SHA256", text)


def _mapped(value: Any, text: Any) -> Any:
    if isinstance(value, str) and type(value) is str:
        return text(value)
    if isinstance(value, tuple):
        return tuple(_mapped(item, text) for item in value)
    if isinstance(value, TLSOptions):
        paths = ("ca_file", "cert_file", "key_file", "bundle_file")
        given = {name: getattr(value, name) for name in paths}
        return replace(value, **{n: text(str(path)) for n, path in given.items() if path})
    if isinstance(value, msgspec.Struct):
        mapped = {name: _mapped(getattr(value, name), text) for name in value.__struct_fields__}
        mapped |= {"version": "2.99.0", "server_id": "SERVER-ID"}
        if mapped["server_name"] == text(value.server_id):
            mapped["server_name"] = "SERVER-ID"
        return msgspec.structs.replace(value, **mapped)
    if not is_dataclass(value) or isinstance(value, type):
        return value
    mapped = {one.name: _mapped(getattr(value, one.name), text) for one in fields(value)}
    return _timeless(replace(value, **mapped))


def _timeless(value: Any) -> Any:
    match value:
        case Lookup() | Dial():
            return replace(value, seconds=0.001)
        case Greeting(kind=kind):
            return replace(value, seconds=1.0 if kind == "silence" else 0.001)
        case Live(round_trips=trips):
            return replace(value, round_trips=(0.00025,) * len(trips))
        case CertificateInfo():
            return replace(value, sha256="0" * 64)
        case _:
            return value
