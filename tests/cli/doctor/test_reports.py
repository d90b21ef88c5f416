"""The complete reports of the doctor on every kind of server.

``expected/`` has a report for each, in 80 columns; :func:`stable` replaces everything that varies.
After a change of texts, run ``UPDATE_EXPECTED=1 pytest tests/cli/doctor`` and review the changes.
"""

from __future__ import annotations

import os
import ssl
from pathlib import Path
from typing import Any

import pytest
import trio

import trio_nats
from tests.cli.doctor.printing import printed
from tests.cli.doctor.server_kinds import CERTS, KINDS, PASSWORD, Kind, self_signed
from tests.cli.doctor.stable import stable
from tests.support.timeouts import HANG_TIMEOUT
from trio_nats.cli.doctor.advice import advise
from trio_nats.cli.doctor.examine import examine_all
from trio_nats.cli.doctor.report import Report

pytestmark = pytest.mark.slow

# Kinds for which the last line of code in the advice connects, once its placeholder files are
# replaced by real ones.
CURED = [
    "nats_port",
    "ws_port",
    "plain_proxy",
    "require_none",
    "implicit_none",
    "implicit_tls",
    "disable_tls",
    "disable_first",
    "prefer_first",
    "prefer_tls_proxy",
    "contradiction",
    "untrusted",
    "untrusted_other_ca",
    "self_signed",
    "wrong_name",
    "wrong_name_untrusted",
    "tls_1_2",
    "skip_verify",
    "certificate_missing",
    "first_verify_missing",
    "wss_verify",
    "no_replies",
]
REAL_FILES = {
    "ca.pem": CERTS.ca_file,
    "client.pem": CERTS.client.cert_file,
    "client.key": CERTS.client.key_file,
    "server.pem": self_signed().cert_file,
}
EXPECTED = Path(__file__).parent / "expected"
AT_ONCE = 6
"""Some are silent for seconds, so they are examined concurrently."""


async def _examine_everything() -> dict[str, Report | str]:
    """Return the report on each kind, and as ``cured NAME`` the result of following the advice."""
    found: dict[str, Report | str] = {}
    limit = trio.CapacityLimiter(AT_ONCE)

    async def one(name: str, kind: Kind) -> None:
        async with limit, kind.serve() as url:
            with trio.fail_after(HANG_TIMEOUT):
                (report,) = await examine_all(url, kind.client)
                found[name] = report
                if name in CURED:
                    found[f"cured {name}"] = await _take_advice(report)

    async with trio.open_nursery() as nursery:
        for name, kind in KINDS.items():
            nursery.start_soon(one, name, kind)
    return found


@pytest.fixture(scope="module")
def examined() -> dict[str, Any]:
    return trio.run(_examine_everything)


@pytest.mark.parametrize("name", KINDS)
def test_report(examined: dict[str, Any], name: str) -> None:
    text = printed(stable(examined[name]))
    file = EXPECTED / f"{name}.txt"
    if os.environ.get("UPDATE_EXPECTED"):
        file.write_text(text, "utf-8")
    assert text == file.read_text("utf-8")


@pytest.mark.parametrize("name", KINDS)
def test_verdict(examined: dict[str, Any], name: str) -> None:
    assert examined[name].live.connected is KINDS[name].connects


async def _take_advice(report: Report) -> str:
    """Follow the advice of the last finding."""
    line = advise(report)[-1].line
    for invented, real in REAL_FILES.items():
        line = line.replace(f'"{invented}"', repr(str(real)))
    if report.asked.login.user:
        line = (
            line.removesuffix(")")
            + f", auth=UserPassword({report.asked.login.user!r}, {PASSWORD!r}))"
        )
    try:
        async with eval(line, vars(trio_nats) | {"ssl": ssl}) as nc:
            await nc.flush()
    except trio_nats.NatsError as error:
        return f"{line}: {error}"
    return "connects"


@pytest.mark.parametrize("name", CURED)
def test_following_the_advice_connects(examined: dict[str, Any], name: str) -> None:
    assert examined[f"cured {name}"] == "connects"


def test_the_samples_in_the_documentation() -> None:
    page = (Path(__file__).parents[3] / "docs" / "doctor.md").read_text("utf-8")
    samples = page.split("```text\n")[1:]
    assert len(samples) == 2
    for sample, name in zip(samples, ("prefer_first", "verify"), strict=True):
        assert sample.partition("```")[0] == (EXPECTED / f"{name}.txt").read_text("utf-8")


def test_no_report_is_left_over() -> None:
    assert {file.stem for file in EXPECTED.glob("*.txt")} == set(KINDS)
