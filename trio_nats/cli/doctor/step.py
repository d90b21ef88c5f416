"""One step of making a connection."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

__all__ = ["Status", "Step", "capital", "not_reached"]

Status: TypeAlias = Literal["ok", "warning", "failed", "not reached"]


@dataclass(frozen=True, slots=True)
class Step:
    """One step of making a connection."""

    key: str
    """Its name for machines."""
    title: str
    status: Status
    text: str
    details: tuple[str, ...] = ()


def not_reached(key: str, title: str, text: str = "Not reached.") -> Step:
    """Return a step that the connection did not reach."""
    return Step(key, title, "not reached", text)


def capital(text: str) -> str:
    """Capitalize the first letter of ``text``."""
    return text[:1].upper() + text[1:]
