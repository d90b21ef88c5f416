"""What is wrong and what to change: a pure function from facts to findings.

:func:`advise` finds the one problem that keeps a connection from coming about, if there is one,
what else is wrong with the certificate, and then what deserves a warning or a hint.
"""

from __future__ import annotations

from .finding import Finding
from .problems import problems
from .report import Report
from .warnings import warnings

__all__ = ["advise"]


def advise(report: Report) -> tuple[Finding, ...]:
    """The findings, worst first."""
    return (*problems(report), *warnings(report))
