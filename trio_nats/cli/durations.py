"""Parse durations in Go's notation, as the ``nats`` command does, and sizes."""

from __future__ import annotations

import re

import typer

__all__ = ["parse_duration", "parse_size", "parse_wait"]

_UNITS = {"h": 3600, "m": 60, "s": 1, "ms": 1e-3, "us": 1e-6, "µs": 1e-6, "ns": 1e-9}
_DURATION = re.compile(r"(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:h|ms|m|s|us|µs|ns)")
_SIZE = re.compile(r"([0-9]{1,12}) *(?:([KM])i?B?|B)?", re.IGNORECASE)


def parse_duration(text: str | float) -> float:
    """Convert ``"1m30s"``, ``"300ms"`` or a plain number of seconds to seconds."""
    if isinstance(text, int | float):
        return float(text)
    text = text.strip()
    if text.replace(".", "", 1).isdecimal() and text.isascii():
        return float(text)
    parts: list[str] = _DURATION.findall(text)
    if not parts or "".join(parts) != text:
        raise typer.BadParameter(
            f"must be a duration such as 5s, 300ms, 1m30s or a number of seconds, not {text!r}"
        )
    total = 0.0
    for part in parts:
        unit = part.lstrip("0123456789.")
        total += float(part.removesuffix(unit)) * _UNITS[unit]
    return total


def parse_wait(text: str | float) -> float:
    """Like :func:`parse_duration`, but reject zero."""
    seconds = parse_duration(text)
    if not seconds:
        raise typer.BadParameter("must be longer than zero; pass a duration such as 5s")
    return seconds


def parse_size(text: str | int) -> int:
    """Convert ``"512"``, ``"16KB"`` or ``"1MiB"`` to bytes. All units are powers of 1024."""
    if isinstance(text, int):
        return text
    found = _SIZE.fullmatch(text.strip())
    if not found:
        raise typer.BadParameter(f"must be a size such as 512, 16KB or 1MB, not {text!r}")
    factor = {"": 1, "K": 1024, "M": 1024 * 1024}[(found[2] or "").upper()]
    return int(found[1]) * factor
