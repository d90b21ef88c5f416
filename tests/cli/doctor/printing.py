"""Render reports as text."""

from __future__ import annotations

import io

from rich.console import Console

from trio_nats.cli.doctor.render import print_reports
from trio_nats.cli.doctor.report import Report

__all__ = ["printed"]


def printed(report: Report, width: int = 80) -> str:
    """Return a report as printed without a terminal, without trailing spaces."""
    file = io.StringIO()
    print_reports(Console(file=file, width=width, highlight=False), [report])
    return "".join(f"{line.rstrip()}\n" for line in file.getvalue().splitlines())
