"""The one time limit of the tests: it ends a test that hangs, and never judges speed."""

from __future__ import annotations

import os

__all__ = ["HANG_TIMEOUT"]

HANG_TIMEOUT = 60.0 * float(os.environ.get("TRIO_NATS_TEST_TIMEOUT_SCALE", "1"))
"""Seconds. On a machine that is slower still, set ``--timeout-scale`` or the variable."""
