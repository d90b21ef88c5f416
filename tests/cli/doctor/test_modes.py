"""The result that the doctor reports for each mode is what a client gets."""

from __future__ import annotations

from dataclasses import replace

import pytest
import trio

from tests.cli.doctor.server_kinds import KINDS, Kind
from tests.support.timeouts import HANG_TIMEOUT
from trio_nats import ConfigurationError, ConnectError, TLSMode, TLSOptions, open_nats
from trio_nats.cli.doctor.examine import examine_all

pytestmark = pytest.mark.slow

SERVERS = [
    "none",
    "tls",
    "allow_non_tls",
    "verify",
    "certificate_missing",
    "certificate_refused",
    "first",
    "first_auto",
    "tls_proxy",
    "plain_proxy",
    "ws",
    "wss",
    "http",
    "closes",
    "require_none",
    "untrusted",
    "wrong_name",
    "missing_ca_file",
    "old_tls",
]
Outcome = tuple[str, str]


async def predicted(url: str, kind: Kind) -> dict[TLSMode, Outcome]:
    (report,) = await examine_all(url, kind.client)
    return {trial.mode: (trial.outcome, trial.kind) for trial in report.trials}


async def real(url: str, kind: Kind) -> dict[TLSMode, Outcome]:
    outcomes: dict[TLSMode, Outcome] = {}

    async def one(mode: TLSMode) -> None:
        tls = replace(kind.client.tls, mode=mode)
        outcomes[mode] = await attempt(url, tls, kind.client.connect_timeout)
        for _ in range(3):
            # On a busy machine the handshake may begin too late for the server.
            if kind is KINDS["first_auto"] and outcomes[mode] == ("fails", "TLSHandshakeError"):
                outcomes[mode] = await attempt(url, tls, kind.client.connect_timeout)

    async with trio.open_nursery() as nursery:
        for mode in TLSMode:
            nursery.start_soon(one, mode)
    return outcomes


async def attempt(url: str, tls: TLSOptions, seconds: float) -> Outcome:
    try:
        async with open_nats(url, tls=tls, connect_timeout=seconds) as nc:
            await nc.flush()
            return ("plaintext" if nc.tls_info is None else "tls", "")
    except ConfigurationError as error:
        return ("refused", type(error).__name__)
    except ConnectError as error:
        return ("fails", type(error.attempts[0].error).__name__)


@pytest.mark.parametrize("name", SERVERS)
async def test_prediction(name: str) -> None:
    kind = KINDS[name]
    async with kind.serve() as url:
        expected: dict[TLSMode, Outcome] = {}

        async def compare() -> None:
            expected.update(await real(url, kind))

        with trio.fail_after(HANG_TIMEOUT):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(compare)
                found = await predicted(url, kind)
        assert found == expected
