"""Format lists, times, sizes and keys."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import datetime

__all__ = ["amount", "duration", "ends", "ends_soon", "listing", "short", "size"]

_PUBLIC_KEY = re.compile("[AUX][A-Z2-7]{55}")
_SOON = 30 * 86400
_MAX_LISTED = 6


def listing(items: Sequence[str], last: str = "and") -> str:
    """Return ``a, b and c``. Long lists end with the number of further items."""
    if len(items) > _MAX_LISTED:
        return f"{', '.join(items[:_MAX_LISTED])} {last} {len(items) - _MAX_LISTED} more"
    if len(items) < 2:
        return "".join(items)
    return f"{', '.join(items[:-1])} {last} {items[-1]}"


def duration(seconds: float) -> str:
    """Return a time such as ``0.35 ms``, ``12 ms`` or ``3.0 s``."""
    if seconds < 1:
        ms = seconds * 1000
        return f"{ms:.2f} ms" if ms < 10 else f"{ms:.0f} ms"
    return f"{seconds:.1f} s"


def amount(count: int, what: str) -> str:
    """Return ``1 day`` or ``2 days``."""
    return f"{count:,} {what}" if count == 1 else f"{count:,} {what}s"


def short(key: str) -> str:
    """Shorten a public key to its first characters. Other texts are unchanged."""
    return f"{key[:12]}..." if _PUBLIC_KEY.fullmatch(key) else key


def size(count: int) -> str:
    """Return a number of bytes, in MiB or KiB if that is exact."""
    for unit, factor in (("MiB", 1024**2), ("KiB", 1024)):
        if count >= factor and count % factor == 0:
            return f"{count // factor:,} {unit}"
    return amount(count, "byte")


def ends(moment: datetime, now: datetime) -> str:
    """Return ``expires in 12 days (2026-12-06)`` or ``expired 3 days ago (...)``."""
    date = f"({moment:%Y-%m-%d})"
    seconds = (moment - now).total_seconds()
    days = int(abs(seconds) // 86400)
    if seconds < 0:
        return f"expired {amount(days, 'day') + ' ago' if days else 'today'} {date}"
    if days:
        return f"expires in {amount(days, 'day')} {date}"
    return f"expires within {amount(int(seconds // 3600) + 1, 'hour')} {date}"


def ends_soon(moment: datetime | None, now: datetime) -> bool:
    """Whether ``moment`` is within the next 30 days."""
    return moment is not None and 0 <= (moment - now).total_seconds() < _SOON
