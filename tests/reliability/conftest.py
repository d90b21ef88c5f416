"""Fixtures of this room."""

from __future__ import annotations

import pytest


@pytest.fixture
def short_overlap(monkeypatch: pytest.MonkeyPatch) -> None:
    """Change servers in a hurry, where no real cluster has to learn of new subscriptions."""
    monkeypatch.setattr("trio_nats._core.supervisor._OVERLAP", 0.1)
