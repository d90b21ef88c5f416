"""Reports as text."""

from __future__ import annotations

import io

from rich.console import Console

from trio_nats.cli.doctor.facts import Facts
from trio_nats.cli.doctor.render import report

__all__ = ["printed"]


def printed(facts: Facts, width: int = 80) -> str:
    """What is printed where there is no terminal, without spaces at the ends of lines."""
    file = io.StringIO()
    report(Console(file=file, width=width, highlight=False), [facts])
    return "".join(f"{line.rstrip()}\n" for line in file.getvalue().splitlines())
