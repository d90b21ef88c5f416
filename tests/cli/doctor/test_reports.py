"""What the doctor says about every kind of server, word for word.

``expected/`` holds a report for each, in 80 columns, with what changes from run to run replaced as
:func:`stable` says. After a change of words: ``UPDATE_EXPECTED=1 pytest tests/cli/doctor``, and
read what has changed.
"""

from __future__ import annotations

import io
import os
from pathlib import Path

import pytest
import trio
from rich.console import Console

from tests.cli.doctor.kinds import KINDS, Kind
from tests.cli.doctor.stable import stable
from trio_nats.cli.doctor.examine import examine_all
from trio_nats.cli.doctor.facts import Facts
from trio_nats.cli.doctor.render import report

EXPECTED = Path(__file__).parent / "expected"
AT_ONCE = 8
"""Some of them are silent for seconds, so they are examined side by side."""


async def _examine_everything() -> dict[str, Facts]:
    found: dict[str, Facts] = {}
    limit = trio.CapacityLimiter(AT_ONCE)

    async def one(name: str, kind: Kind) -> None:
        async with limit, kind.serve() as url:
            with trio.fail_after(60):
                (found[name],) = await examine_all(url, kind.client)

    async with trio.open_nursery() as nursery:
        for name, kind in KINDS.items():
            nursery.start_soon(one, name, kind)
    return found


@pytest.fixture(scope="module")
def examined() -> dict[str, Facts]:
    return trio.run(_examine_everything)


def printed(facts: Facts, width: int = 80) -> str:
    console = Console(file=io.StringIO(), width=width, highlight=False)
    report(console, [facts])
    text = console.file.getvalue()
    return "".join(f"{line.rstrip()}\n" for line in text.splitlines())


@pytest.mark.parametrize("name", KINDS)
def test_report(examined: dict[str, Facts], name: str) -> None:
    text = printed(stable(examined[name]))
    file = EXPECTED / f"{name}.txt"
    if os.environ.get("UPDATE_EXPECTED"):
        file.write_text(text, "utf-8")
    assert text == file.read_text("utf-8")


@pytest.mark.parametrize("name", KINDS)
def test_verdict(examined: dict[str, Facts], name: str) -> None:
    assert examined[name].live.connected is KINDS[name].connects


def test_no_report_is_left_over() -> None:
    assert {file.stem for file in EXPECTED.glob("*.txt")} == set(KINDS)
