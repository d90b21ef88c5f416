"""The soak, for a few seconds. ``nox -s soak -- --seconds 600`` is the real thing."""

from __future__ import annotations

import os

import pytest

from tests.reliability.soak import soak
from tests.transports import TCP_AND_WSS, Transport

pytestmark = pytest.mark.slow

# One that is not always the same has its place where somebody looks at what it finds.
SEED = int(os.environ.get("TRIO_NATS_SOAK_SEED", "20"))


@TCP_AND_WSS
async def test_chaos(transport: Transport) -> None:
    report = await soak(0.8, SEED, transport)
    print(report)
    assert not report.faults, f"TRIO_NATS_SOAK_SEED={SEED}: {report.faults}"
