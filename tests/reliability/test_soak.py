"""The soak, for a few seconds. ``nox -s soak -- --seconds 600`` is the real thing."""

from __future__ import annotations

import os

import pytest

from tests.reliability.soak import soak

# One that is not always the same has its place where somebody looks at what it finds.
SEED = int(os.environ.get("TRIO_NATS_SOAK_SEED", "20"))


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
async def test_chaos(tls: bool) -> None:
    report = await soak(3.0, SEED, tls=tls)
    print(report)
    assert not report.faults, f"TRIO_NATS_SOAK_SEED={SEED}: {report.faults}"
