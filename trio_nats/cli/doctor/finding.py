"""One finding."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

__all__ = ["Finding", "Severity", "problem"]

Severity: TypeAlias = Literal["problem", "warning", "hint"]
"""A problem keeps the connection from coming about; a warning does not, but may do harm."""


@dataclass(frozen=True, slots=True)
class Finding:
    """Something found, and what to do about it."""

    severity: Severity
    code: str
    """Its name for machines; it does not change between versions."""
    text: str
    """What is the matter."""
    fix: str
    """What to do."""
    line: str = ""
    """The line of code that does it, if one does."""


def problem(code: str, text: str, fix: str, line: str = "") -> Finding:
    """A finding that keeps the connection from coming about."""
    return Finding("problem", code, text, fix, line)
