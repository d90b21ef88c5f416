"""The soak, for a few seconds. ``nox -s soak -- --seconds 600`` is the real thing."""

from __future__ import annotations

import os
import time

import pytest

from tests.reliability.soak import soak

SEED = int(os.environ.get("TRIO_NATS_SOAK_SEED", time.time_ns() % 1_000_000))


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
async def test_chaos(tls: bool) -> None:
    report = await soak(3.0, SEED, tls=tls)
    print(report)
    assert not report.faults, f"TRIO_NATS_SOAK_SEED={SEED}: {report.faults}"
