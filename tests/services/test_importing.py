"""Modules on top of the connection are loaded on first use only."""

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
def test_services_are_imported_on_first_use() -> None:
    subprocess.run([sys.executable, "-c", PROGRAM], check=True, timeout=60)
