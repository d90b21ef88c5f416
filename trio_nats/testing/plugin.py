"""A pytest plugin: real NATS servers as fixtures, for the test suites of users.

It is active wherever trio-nats is installed and costs nothing until a fixture is used::

    async def test_greeting(nats_server):
        async with open_nats(nats_server.url) as nc:
            ...

    @pytest.mark.nats_server(jetstream=True)
    async def test_stream(nats_server): ...

    async def test_two_servers(nats_server_factory):
        east = await nats_server_factory(name="east")
        west = await nats_server_factory(name="west")

    @pytest.mark.nats_cluster(3, jetstream=True)
    async def test_failover(nats_cluster): ...

The markers take the arguments of :class:`~trio_nats.testing.NatsServer` and
:class:`~trio_nats.testing.NatsCluster`. Every test gets fresh servers. When one fails, its report
shows what the servers logged.

Tests have to be run by pytest-trio, or by anyio's plugin with the ``trio`` backend.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Generator, Iterator
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Protocol, Unpack

import pytest

if TYPE_CHECKING:
    from .cluster import NatsCluster
    from .server import NatsServer
    from .settings import ServerOptions

__all__ = ["NatsServerFactory"]

LOG_LINES = 200
"""Maximum number of lines of each server's log to show in a report."""


class NatsServerFactory(Protocol):
    """The value of the fixture ``nats_server_factory``."""

    async def __call__(self, **options: Unpack[ServerOptions]) -> NatsServer:
        """Start a server that runs until the end of the test.

        :param options: those of :class:`NatsServer`.
        """
        ...


# The servers and clusters of a test. Clusters may grow until the report.
_Started = list["NatsServer | NatsCluster"]
_started = pytest.StashKey[_Started]()


def pytest_configure(config: pytest.Config) -> None:
    for marker in (
        "nats_server(**options): start the nats_server of this test with these options",
        "nats_cluster(n=3, **options): start the nats_cluster of this test with these options",
    ):
        config.addinivalue_line("markers", marker)


# --- fixtures -----------------------------------------------------------------------------------
# Plain asynchronous fixtures, which both pytest-trio and anyio's plugin can run, so this module
# needs neither of them. NatsServer has no nursery, so none stays open across the `yield`.


@pytest.fixture
def _nats_started(request: pytest.FixtureRequest) -> _Started:
    """The servers of this test, for its report. Fails the test unless Trio runs it."""
    if not _is_run_by_pytest_trio(request) and _anyio_backend(request) != "trio":
        pytest.fail(
            "the fixtures of trio-nats need a test that is run by Trio: an `async def` run by "
            "pytest-trio (`pip install pytest-trio`, then mark the test with @pytest.mark.trio or "
            "set trio_mode = true), or by anyio's plugin with the backend 'trio'",
            pytrace=False,
        )
    started: _Started = request.node.stash.setdefault(_started, [])
    return started


def _is_run_by_pytest_trio(request: pytest.FixtureRequest) -> bool:
    try:
        # An option that only pytest-trio defines, under whatever name it is loaded.
        request.config.getini("trio_mode")
    except ValueError:
        return False
    return request.node.get_closest_marker("trio") is not None


def _anyio_backend(request: pytest.FixtureRequest) -> str | None:
    if "anyio_backend" not in request.fixturenames:
        return None
    backend: object = request.getfixturevalue("anyio_backend")
    return str(backend[0] if isinstance(backend, tuple) else backend)


@pytest.fixture
async def nats_server(
    request: pytest.FixtureRequest, _nats_started: _Started
) -> AsyncIterator[NatsServer]:
    """A running :class:`NatsServer` for this test, with the options in
    ``@pytest.mark.nats_server``.
    """
    from .server import NatsServer

    marker = request.node.get_closest_marker("nats_server")
    server = NatsServer(*marker.args, **marker.kwargs) if marker else NatsServer()
    _nats_started.append(server)
    async with server:
        yield server


@pytest.fixture
async def nats_server_factory(_nats_started: _Started) -> AsyncIterator[NatsServerFactory]:
    """A function that starts a :class:`NatsServer` with the given options, until the end of the
    test.
    """
    from .server import NatsServer

    async with AsyncExitStack() as stack:

        async def start(**options: Unpack[ServerOptions]) -> NatsServer:
            server = NatsServer(**options)
            _nats_started.append(server)
            return await stack.enter_async_context(server)

        yield start


@pytest.fixture
async def nats_cluster(
    request: pytest.FixtureRequest, _nats_started: _Started
) -> AsyncIterator[NatsCluster]:
    """A ready :class:`NatsCluster` for this test, with the options in
    ``@pytest.mark.nats_cluster``.
    """
    from .cluster import NatsCluster

    marker = request.node.get_closest_marker("nats_cluster")
    cluster = NatsCluster(*marker.args, **marker.kwargs) if marker else NatsCluster()
    _nats_started.append(cluster)
    async with cluster:
        yield cluster


# --- reports ------------------------------------------------------------------------------------


# tryfirst, so that the report is final: others may have turned it into an expected failure.
@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if report.failed and (started := item.stash.get(_started, None)):
        # Only once, even if the teardown fails too.
        item.stash[_started] = []
        report.sections.extend(_section(server) for server in _servers(started))
    return report


def _servers(started: _Started) -> Iterator[NatsServer]:
    from .cluster import NatsCluster

    for one in started:
        if isinstance(one, NatsCluster):
            yield from one
        else:
            yield one


def _section(server: NatsServer) -> tuple[str, str]:
    lines = server.log.splitlines()
    if len(lines) > LOG_LINES:
        lines[:-LOG_LINES] = [f"... {len(lines) - LOG_LINES} more lines ..."]
    return f"nats-server log of {server.settings.name or server}", "\n".join(lines)
