"""Who has no service does not load them."""

from __future__ import annotations

import subprocess
import sys

PROGRAM = """
import sys, trio_nats
assert "trio_nats.services" not in sys.modules
import trio_nats.services
assert all(hasattr(trio_nats.services, name) for name in trio_nats.services.__all__)
assert trio_nats.services.ServiceError is trio_nats.ServiceError
"""


def test_they_are_imported_when_they_are_asked_for() -> None:
    subprocess.run([sys.executable, "-c", PROGRAM], check=True, timeout=60)
