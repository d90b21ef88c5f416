"""Settings of all tests."""

from __future__ import annotations

import contextlib
import gc
import importlib
import os
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

from tests.support.server_versions import server_version, version_tuple


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--timeout-scale",
        type=float,
        help="multiply the time after which a test counts as hanging (default: 1, a minute)",
    )
    parser.addoption(
        "--every-checkpoint",
        action="store_true",
        help="break connections at every checkpoint of a call, instead of at some",
    )


def pytest_configure(config: pytest.Config) -> None:
    scale = config.getoption("--timeout-scale")
    if scale is not None:  # read by tests.support.timeouts, in worker processes too
        os.environ["TRIO_NATS_TEST_TIMEOUT_SCALE"] = str(scale)
    # No test trusts the authorities of the machine. To load them takes 30 ms for each context.
    os.environ["SSL_CERT_FILE"] = os.environ["SSL_CERT_DIR"] = "/nonexistent"
    config.pluginmanager.register(importlib.import_module("tests.support.timeouts"))
    compile_a_share(config)


def compile_a_share(config: pytest.Config) -> None:
    """Have each worker process compile other modules first, where nothing is compiled yet.

    All of them import the same modules in the same order. On a fresh checkout each would compile
    every one, which takes twice as long as all the rest of the collection.
    """
    worker: dict[str, Any] | None = getattr(config, "workerinput", None)
    tests = Path(__file__).parent
    if worker is None or [Path(arg).resolve() for arg in config.args] != [tests]:
        return
    share = int(worker["workerid"].removeprefix("gw")) % worker["workercount"]
    modules = sorted(tests.rglob("test_*.py"))[share :: worker["workercount"]]
    for path in modules:
        name = ".".join(path.relative_to(tests.parent).with_suffix("").parts)
        # What is wrong with it is for the collection to report.
        with contextlib.suppress(Exception, pytest.skip.Exception):
            importlib.import_module(name)


def pytest_collection_finish() -> None:
    # Freeze all objects so far, which live until the end, to speed up gc.collect() in tests.
    gc.collect()
    gc.freeze()


def pytest_runtest_setup(item: pytest.Item) -> None:
    for marker in item.iter_markers("requires_server"):
        (version,) = marker.args
        if server_version() < version_tuple(version):
            pytest.skip(f"nats-server must be {version} or later")


@pytest.hookimpl(wrapper=True)
def pytest_report_to_serializable() -> Generator[None, Any, Any]:
    """Escape text that cannot be encoded, so that reports can be sent between processes."""
    return encodable((yield))


def encodable(value: Any) -> Any:
    """Return ``value`` with lone surrogates escaped in all strings."""
    if isinstance(value, str):
        return value.encode(errors="backslashreplace").decode()
    if isinstance(value, dict):
        return {encodable(key): encodable(of) for key, of in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(map(encodable, value))
    return value


# No deadline, because coverage and a busy machine can make single examples slow.
# Each run tries a few examples, ``--hypothesis-profile=thorough`` (``nox -s fuzz``) very many.
settings.register_profile("dev", deadline=None, max_examples=25)
# Automated runs are deterministic, so that failures can be reproduced.
settings.register_profile("ci", settings.get_profile("dev"), derandomize=True, print_blob=True)
settings.register_profile("thorough", deadline=None, max_examples=500, print_blob=True)
settings.load_profile("ci" if os.environ.get("CI") else "dev")
