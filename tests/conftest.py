"""Settings that hold for every test."""

from __future__ import annotations

import os

import pytest
from hypothesis import settings


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--timeout-scale",
        type=float,
        help="multiply the time after which a test counts as hanging (default: 1, a minute)",
    )


def pytest_configure(config: pytest.Config) -> None:
    scale = config.getoption("--timeout-scale")
    if scale is not None:  # read by tests.support.timeouts, in worker processes too
        os.environ["TRIO_NATS_TEST_TIMEOUT_SCALE"] = str(scale)


# Coverage and a busy machine make single examples slow: that is no bug, so there is no deadline.
settings.register_profile("dev", deadline=None)
# What fails for one person fails for the next: no luck in automated runs.
settings.register_profile("ci", deadline=None, derandomize=True, print_blob=True)
settings.load_profile("ci" if os.environ.get("CI") else "dev")
