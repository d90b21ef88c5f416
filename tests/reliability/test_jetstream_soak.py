"""The JetStream soak, for a few seconds. ``nox -s soak-jetstream`` runs it for longer."""

from __future__ import annotations

import os
import sys

import pytest

from tests.reliability.jetstream_soak.run import Settings, soak
from tests.support.timeouts import HANG_TIMEOUT

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform == "win32", reason="freezes servers by signals"),
]

# Set another seed to search for more; one seed keeps the suite repeatable.
SEED = int(os.environ.get("TRIO_NATS_SOAK_SEED", "20"))

SHORT = Settings(
    seconds=6,
    pause=0.1,
    batch=50,
    gap=(0.5, 1.5),
    threshold=3,
    settle_timeout=HANG_TIMEOUT / 2,
    expiry_timeout=None,
)


async def test_jetstream_under_faults() -> None:
    report = await soak(SEED, SHORT, print)
    print(report)
    assert not report.violations, f"TRIO_NATS_SOAK_SEED={SEED}: {report.violations}"
