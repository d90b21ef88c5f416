"""One finding."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

__all__ = ["Finding", "Severity", "problem"]

Severity: TypeAlias = Literal["problem", "warning", "hint"]
"""A problem prevents the connection; a warning and a hint do not."""


@dataclass(frozen=True, slots=True)
class Finding:
    """Something found, and what to do about it."""

    severity: Severity
    code: str
    """Its name for machines; it does not change between versions."""
    text: str
    """What is wrong."""
    fix: str
    """What to do."""
    line: str = ""
    """The line of code that fixes it, if there is one."""


def problem(code: str, text: str, fix: str, line: str = "") -> Finding:
    """Return a finding that prevents the connection."""
    return Finding("problem", code, text, fix, line)
