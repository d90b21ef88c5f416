"""Explain what is wrong and what to change: a pure function from a report to findings.

:func:`advise` finds the problem that prevents a connection, if there is one, other faults of the
certificate, and then what deserves a warning or a hint.
"""

from __future__ import annotations

from .finding import Finding
from .problems import problems
from .report import Report
from .warnings import warnings

__all__ = ["advise"]


def advise(report: Report) -> tuple[Finding, ...]:
    """Return the findings, worst first."""
    return (*problems(report), *warnings(report))
