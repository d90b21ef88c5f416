"""Who uses none of what is built on top does not load it."""

from __future__ import annotations

import subprocess
import sys

import pytest

PROGRAM = """
import sys, trio_nats
assert not {"trio_nats.services", "trio_nats.jetstream"} & {*sys.modules}
import trio_nats.services
assert all(hasattr(trio_nats.services, name) for name in trio_nats.services.__all__)
"""


@pytest.mark.slow
def test_they_are_imported_when_they_are_asked_for() -> None:
    subprocess.run([sys.executable, "-c", PROGRAM], check=True, timeout=60)
