"""Run scenarios, print a table, and write JSON and a chart. README.md here explains the table."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import trio

from .peers import PEERS
from .report import Document, document, table, versions
from .runner import Cell, Plan, run_all
from .scenarios import SCENARIOS, select


def words(text: str) -> list[str]:
    return [word.strip() for word in text.split(",") if word.strip()]


def numbers(text: str) -> list[int]:
    return [int(word) for word in words(text)]


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--list", action="store_true", help="list the scenarios")
    parser.add_argument("--scenarios", type=words, default=[], help="names or groups; default: all")
    parser.add_argument(
        "--sizes", type=numbers, help="only these payload sizes in bytes, e.g. 16,1024"
    )
    parser.add_argument("--peers", type=words, default=list(PEERS), help=", ".join(PEERS))
    parser.add_argument("--rounds", type=int, default=5, help="runs, each in a new process")
    parser.add_argument("--seconds", type=float, default=1.0, help="approximate length of a run")
    parser.add_argument("--messages", type=int, help="messages per run, instead of --seconds")
    parser.add_argument("--quick", action="store_true", help="one round of 0.2 seconds")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all runs to this file")
    parser.add_argument("--chart", type=Path, metavar="FILE.svg", help="needs matplotlib")
    parser.add_argument(
        "--from-json",
        type=Path,
        metavar="FILE",
        help="draw the chart from this file, without running",
    )
    options = parser.parse_args(argv)
    try:
        options.chosen = select(options.scenarios, options.sizes)
    except ValueError as exc:
        parser.error(str(exc))
    if unknown := set(options.peers) - set(PEERS):
        parser.error(f"no peer {', '.join(sorted(unknown))}; there are {', '.join(PEERS)}")
    if options.from_json and not options.chart:
        parser.error("--from-json needs --chart")
    if not options.chosen:
        parser.error("no scenario has one of these sizes")
    if options.quick:
        options.rounds, options.seconds = 1, 0.2
    return options


def main(argv: list[str] | None = None) -> int:
    """Return the exit code: 1 if a run of trio_nats or of a reference program failed."""
    options = parse(argv)
    if options.list:
        for scenario in SCENARIOS.values():
            print(f"{scenario.name:<24}{scenario.group:<18}{scenario.title}")
        return 0
    if options.from_json:
        draw_chart(options.chart, json.loads(options.from_json.read_text("utf-8")))
        return 0
    plan = Plan(
        scenarios=options.chosen,
        peers=[PEERS[name] for name in options.peers],
        rounds=options.rounds,
        seconds=options.seconds,
        messages=options.messages,
    )
    print(", ".join(f"{name} {version or '-'}" for name, version in versions().items()))
    cells: list[Cell] = []

    def report(row: list[Cell]) -> None:
        cells.extend(row)
        print("\n".join(table(row)), flush=True)
        if options.json:  # after each scenario, so that an interrupted run has results
            text = json.dumps(document(plan, cells), indent=1)
            options.json.write_text(text + "\n", "utf-8")

    trio.run(run_all, plan, report)
    if options.chart:
        draw_chart(options.chart, document(plan, cells))
    failed = [cell for cell in cells if cell.failure]
    for cell in failed:
        print(f"\n{cell.scenario.name}: {cell.peer.name} FAILED: {cell.failure}")
    # Failures of other clients are reported in the table, but are not failures of ours.
    return 1 if any(cell.peer.ours for cell in failed) else 0


def draw_chart(path: Path, result: Document) -> None:
    from .chart import draw

    draw(path, result)


if __name__ == "__main__":
    sys.exit(main())
