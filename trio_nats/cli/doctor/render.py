"""Print a report for people, in 80 columns. Without a terminal it is plain text."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from ..._printable import printable, printable_lines
from .advice import advise
from .finding import Finding, Severity
from .modes import summary
from .report import Report
from .steps import Status, Step, walk

__all__ = ["print_facts", "print_heading", "print_reports", "print_summary"]

_MARKS: dict[Status, tuple[str, str]] = {
    "ok": ("ok", "green"),
    "warning": ("warning", "yellow"),
    "failed": ("FAILED", "bold red"),
    "not reached": ("-", "dim"),
}
_SEVERITIES: dict[Severity, str] = {
    "problem": "bold red",
    "warning": "yellow",
    "hint": "cyan",
}
_OUTCOMES = {
    "tls": ("encrypted", "green"),
    "plaintext": ("plaintext", "yellow"),
    "fails": ("fails", "red"),
    "refused": ("refused", "red"),
    "unknown": ("unknown", "dim"),
}
_WIDEST = 110


def print_reports(console: Console, reports: Sequence[Report]) -> None:
    """Print the results for each server, and what to do."""
    for position, one in enumerate(reports):
        if position:
            console.print()
        print_heading(console, one.asked.url)
        print_facts(console, one)
    print_summary(console, reports)


def print_heading(console: Console, url: str) -> None:
    """Print which server is being examined, because that may take a while."""
    _print(console, Text.assemble("Examining ", (printable(url), "bold")))


def print_facts(console: Console, report: Report) -> None:
    """Print the results for one server."""
    findings = advise(report)
    parts: list[RenderableType] = [Text(), _steps(walk(report))]
    if report.reached:
        parts += [Text(), _heading("What each TLS mode does with this server"), _modes(report)]
    parts += [Text(), _verdict(report)]
    if findings:
        parts += [Text(), _heading("What to do" if _is_bad(findings) else "Worth knowing")]
        parts += [_finding(number, finding) for number, finding in enumerate(findings, 1)]
    _print(console, Group(*parts))


def print_summary(console: Console, reports: Sequence[Report]) -> None:
    """Print how many of several servers can be used."""
    working = sum(one.live.connected for one in reports)
    if len(reports) < 2:
        return
    if working:
        text = f"{working} of {len(reports)} servers can be used."
    else:
        text = f"None of the {len(reports)} servers can be used."
    _print(console, Text(f"\n{text}", style="bold" if working else "bold red"))


def _print(console: Console, what: RenderableType) -> None:
    console.print(what, width=min(console.width, _WIDEST), highlight=False)


def _text(text: str, style: str = "") -> Text:
    return Text(printable_lines(text), style=style)


def _is_bad(findings: Sequence[Finding]) -> bool:
    return any(finding.severity != "hint" for finding in findings)


def _heading(text: str) -> Text:
    return Text(text, style="bold")


def _steps(steps: Sequence[Step]) -> Table:
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True, min_width=7)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for step in steps:
        mark, style = _MARKS[step.status]
        body = _text(step.text, style="dim" if step.status == "not reached" else "")
        table.add_row(Text(mark, style=style), _text(step.title), body)
        for detail in step.details:
            table.add_row("", "", _detail(detail))
    return table


def _detail(text: str) -> RenderableType:
    """Return a list item whose further lines are indented."""
    grid = Table.grid()
    grid.add_column(no_wrap=True)
    grid.add_column(overflow="fold")
    grid.add_row(Text("- ", style="dim"), _text(text, style="dim"))
    return grid


def _modes(report: Report) -> RenderableType:
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True, min_width=10)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for trial in report.trials:
        yours = trial.mode is report.asked.tls.mode
        name = f"{trial.mode} *" if yours else str(trial.mode)
        word, style = _OUTCOMES[trial.outcome]
        table.add_row(
            Text(name, style="bold" if yours else ""),
            Text(word, style=style),
            _text(summary(trial, report)),
        )
    return Group(table, Text("* the mode in use", style="dim"))


def _verdict(report: Report) -> Text:
    if report.live.connected:
        return Text("A client with these options connects.", style="bold green")
    return Text("A client with these options does not connect.", style="bold red")


def _finding(number: int, finding: Finding) -> RenderableType:
    table = Table.grid(padding=(0, 1, 0, 0))
    table.add_column(no_wrap=True, min_width=2)
    table.add_column(overflow="fold")
    severity = (finding.severity.capitalize(), _SEVERITIES[finding.severity])
    table.add_row(f"{number}.", Text.assemble(severity, ": ", printable(finding.text)))
    table.add_row("", _text(finding.fix))
    parts: list[RenderableType] = [table]
    if finding.line:
        # Do not wrap it, because users copy it.
        code = Text(printable_lines(finding.line), style="bold", no_wrap=True, overflow="ignore")
        parts.append(Padding(code, (0, 0, 0, 7)))
    return Group(*parts)
