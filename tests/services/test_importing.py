"""Who has no service does not load them, and who has finds their names where all others are."""

from __future__ import annotations

import subprocess
import sys

import pytest

import trio_nats
from trio_nats import services

PROGRAM = """
import sys, trio_nats
assert "trio_nats.services" not in sys.modules
assert "Service" in dir(trio_nats)
from trio_nats import Service, ServiceError
assert trio_nats.services.Service is Service
assert "Service" in vars(trio_nats)
"""


def test_they_are_imported_when_they_are_asked_for() -> None:
    subprocess.run([sys.executable, "-c", PROGRAM], check=True, timeout=60)


def test_all_names_are_there() -> None:
    assert all(getattr(trio_nats, name) is not None for name in trio_nats.__all__)
    assert {*services.__all__} - {*trio_nats.__all__} == {"Handler", "StatsHandler", "TypedHandler"}
    with pytest.raises(AttributeError, match="module 'trio_nats' has no attribute 'Servise'"):
        _ = trio_nats.Servise  # type: ignore[attr-defined]  # on purpose
