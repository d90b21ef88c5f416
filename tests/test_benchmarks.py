"""The benchmarks run and count right. What they measure is not looked at here."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.clients.common import Job
from benchmarks.peers import PEERS
from benchmarks.report import summarize, table
from benchmarks.runner import Cell, Run
from benchmarks.scenarios import SCENARIOS, select

ROOT = Path(__file__).parent.parent


@pytest.mark.slow
def test_every_load_and_the_plain_scenarios(tmp_path: Path) -> None:
    """Each kind of load once; messages that get lost would be a failure, and exit code 1."""
    names = ["publish-headers", "receive-8KiB", "request-10", "responder"]
    result = tmp_path / "result.json"
    done = subprocess.run(
        [
            *(sys.executable, "-m", "benchmarks", "--quick", "--messages", "200"),
            *("--peers", "trio_nats,limit", "--scenarios", ",".join(names)),
            *("--json", str(result)),
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    results = json.loads(result.read_text("utf-8"))["results"]
    assert {item["scenario"] for item in results} == set(names)
    for item in results:
        assert item["failure"] is None
        assert item["unsupported"] is None
        assert [run["count"] for run in item["runs"]] == [200]
        assert item["median"] > 0
        assert item["client"] in done.stdout


@pytest.mark.parametrize("count", [1, 7999, 8000, 8001, 32_000, 100_000, 123_457])
def test_the_load_is_allowed_all_of_a_run_and_never_more_than_the_window(count: int) -> None:
    scenario = SCENARIOS["receive-128B"]
    job = Job(scenario, "", None, 1.0, None, "")
    granted = taken = 0
    for grant, number in job.grants(count):
        granted += int(grant or 0)
        assert taken < granted <= taken + scenario.window
        taken += number
    assert granted == taken == count


def test_select() -> None:
    assert select([]) == list(SCENARIOS.values())
    assert [item.name for item in select(["publish"], [16])] == ["publish-16B"]
    assert [item.name for item in select(["connect"], [16])] == ["connect"]
    with pytest.raises(ValueError, match="no scenario nonsense"):
        select(["nonsense"])


def test_a_failed_run_is_never_a_number() -> None:
    cell = Cell(scenario=SCENARIOS["publish-16B"], peer=PEERS["nats-py"])
    cell.runs.append(Run(count=10, seconds=1.0, cpu_seconds=1.0, extra={}))
    assert summarize(cell) is not None
    cell.failure = "the client counts 10 messages, the server 9"
    assert summarize(cell) is None
    assert "FAILED  in run 2: the client counts 10" in "\n".join(table([cell]))
