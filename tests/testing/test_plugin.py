"""The fixtures of the plugin, used in separate test suites."""

from __future__ import annotations

import re
import subprocess
import sys
import textwrap

import pytest

pytestmark = pytest.mark.slow

pytest_plugins = ["pytester"]

TRIO = "pytest_trio.plugin"
OURS = "trio_nats.testing.plugin"
ANYIO = "anyio.pytest_plugin"

COMMON = """
import os, pytest, trio
from trio_nats.testing import NatsServer, NatsCluster, NatsServerFactory

async def greeting(server):
    async with await trio.open_tcp_stream(server.host, server.port) as stream:
        return bytes(await stream.receive_some())

def is_gone(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False
"""


@pytest.fixture
def suite(pytester, monkeypatch):
    """Run tests in a separate pytest with only these plugins."""

    def run(code: str, *plugins: str, ini: str = "trio_mode = true", args=()) -> pytest.RunResult:
        monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
        pytester.makeini(f"[pytest]\nfilterwarnings = error\n{ini}\n")
        pytester.makepyfile(COMMON + textwrap.dedent(code))
        options = [part for plugin in (*plugins, OURS) for part in ("-p", plugin)]
        return pytester.runpytest_inprocess("--strict-markers", *options, *args)

    return run


def test_a_server_for_every_test(suite) -> None:
    result = suite(
        """
        pids = []

        async def test_one(nats_server: NatsServer):
            assert (await greeting(nats_server)).startswith(b"INFO ")
            pids.append(nats_server.pid)

        async def test_two(nats_server: NatsServer):
            pids.append(nats_server.pid)
            assert len(set(pids)) == 2
            assert is_gone(pids[0])

        def test_three():
            assert all(map(is_gone, pids))
        """,
        TRIO,
    )
    result.assert_outcomes(passed=3)


def test_a_marker_sets_the_server_up(suite) -> None:
    result = suite(
        """
        @pytest.mark.nats_server(jetstream=True, name="wren")
        async def test_it(nats_server):
            assert nats_server.settings.jetstream
            assert b'"server_name":"wren"' in await greeting(nats_server)

        @pytest.mark.nats_server(jetsteam=True)
        async def test_typo(nats_server):
            pass
        """,
        TRIO,
    )
    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines(["*unexpected keyword argument 'jetsteam'*"])


def test_as_many_servers_as_wanted(suite) -> None:
    result = suite(
        """
        servers = []

        async def test_it(nats_server_factory: NatsServerFactory):
            for name in ("east", "west"):
                server = await nats_server_factory(name=name)
                assert name.encode() in await greeting(server)
                servers.append(server)
            assert all(server.is_running for server in servers)

        def test_afterwards():
            assert len(servers) == 2
            assert not any(server.is_running for server in servers)
        """,
        TRIO,
    )
    result.assert_outcomes(passed=2)


def test_a_cluster(suite) -> None:
    result = suite(
        """
        seen = []

        async def test_three(nats_cluster: NatsCluster):
            assert len(nats_cluster) == 3
            assert (await nats_cluster[0].monitor("routez"))["num_routes"] >= 2

        @pytest.mark.nats_cluster(2, name="pair")
        async def test_two(nats_cluster):
            assert [server.settings.name for server in nats_cluster] == ["pair-1", "pair-2"]
            seen.append(nats_cluster)

        def test_afterwards():
            assert not any(server.is_running for server in seen[0])
        """,
        TRIO,
    )
    result.assert_outcomes(passed=3)


def test_fixtures_on_fixtures_and_a_marked_test_without_trio_mode(suite) -> None:
    result = suite(
        """
        from pytest_trio import trio_fixture

        @trio_fixture
        async def hello(nats_server):
            yield await greeting(nats_server)
            assert nats_server.is_running

        @pytest.mark.trio
        async def test_it(hello):
            assert hello.startswith(b"INFO ")
        """,
        TRIO,
        ini="",
    )
    result.assert_outcomes(passed=1)


def test_anyio_with_trio(suite) -> None:
    pytest.importorskip("anyio")
    result = suite(
        """
        pids = []

        @pytest.mark.anyio
        @pytest.mark.parametrize("anyio_backend", ["trio", ("trio", {})])
        async def test_it(nats_server, nats_server_factory, anyio_backend):
            assert (await greeting(nats_server)).startswith(b"INFO ")
            pids.extend([nats_server.pid, (await nats_server_factory()).pid])

        @pytest.mark.anyio
        @pytest.mark.parametrize("anyio_backend", ["asyncio"])
        async def test_other_loop(nats_server, anyio_backend):
            pass

        def test_afterwards():
            assert len(pids) == 4
            assert all(map(is_gone, pids))
        """,
        ANYIO,
        ini="",
    )
    result.assert_outcomes(passed=3, errors=1)
    result.stdout.fnmatch_lines(["*need a test that is run by Trio*"])


@pytest.mark.parametrize("fixture", ["nats_server", "nats_server_factory", "nats_cluster"])
def test_without_a_runner_the_error_says_what_to_do(suite, fixture) -> None:
    result = suite(f"def test_it({fixture}): pass", ini="")
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["*the fixtures of trio-nats need*pip install pytest-trio*"])


def test_a_test_that_is_not_asynchronous(suite) -> None:
    result = suite("def test_it(nats_server): pass", TRIO)
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["*the fixtures of trio-nats need*"])


def test_without_pytest_trio_other_tests_are_left_alone(suite) -> None:
    result = suite("def test_it(): pass", ini="")
    result.assert_outcomes(passed=1)


def sections(result: pytest.RunResult) -> list[str]:
    return re.findall(r"-+ nats-server log of (.+?) -+$", result.stdout.str(), re.MULTILINE)


def test_a_failing_test_shows_the_logs(suite) -> None:
    result = suite(
        """
        async def test_bad(nats_server, nats_server_factory, nats_cluster):
            await nats_server_factory(name="wren")
            await nats_cluster.add_node()
            raise AssertionError("no luck")

        async def test_good(nats_server):
            pass

        @pytest.mark.xfail
        async def test_expected(nats_server):
            raise AssertionError("no luck either")

        def test_other():
            raise AssertionError("nothing to do with servers")
        """,
        TRIO,
        args=["-rA"],
    )
    result.assert_outcomes(failed=2, passed=1, xfailed=1)
    found = sections(result)
    # In any order, because pytest-trio sets up fixtures concurrently.
    unnamed = re.compile(r"<NatsServer nats://127\.0\.0\.1:\d+ not running>")
    names = {f"trio-nats-{number}" for number in range(1, 5)} | {"wren", "unnamed"}
    assert {unnamed.sub("unnamed", name) for name in found} == names
    assert len(found) == 6
    assert result.stdout.str().count("Server is ready") == 6


def test_a_failing_setup_shows_the_log(suite) -> None:
    result = suite(
        """
        @pytest.mark.nats_server(name="wren", config="oops {")
        async def test_it(nats_server):
            pass
        """,
        TRIO,
    )
    result.assert_outcomes(failed=1)
    assert sections(result) == ["wren"]
    result.stdout.fnmatch_lines(["*ServerStartError: nats-server exited with code 1*"])


def test_logs_are_shown_once_when_the_teardown_fails_too(suite) -> None:
    result = suite(
        """
        @pytest.fixture
        def bad():
            yield
            raise AssertionError("again")

        @pytest.mark.nats_server(name="wren")
        async def test_it(bad, nats_server):
            raise AssertionError("no luck")
        """,
        TRIO,
    )
    # The fixture is not async, so pytest-trio does not run its teardown within the test.
    result.assert_outcomes(failed=1, errors=1)
    assert sections(result) == ["wren"]


def test_a_long_log_is_cut(suite) -> None:
    result = suite(
        """
        @pytest.mark.nats_server(args=["-DV"])
        async def test_it(nats_server):
            async with await trio.open_tcp_stream(nats_server.host, nats_server.port) as stream:
                await stream.send_all(b"CONNECT {}\\r\\n" + b"PING\\r\\n" * 500)
                seen = b""
                while seen.count(b"PONG") < 500:
                    seen += await stream.receive_some()
            raise AssertionError
        """,
        TRIO,
    )
    shown = result.stdout.str()
    assert re.search(r"^\.\.\. \d{3,} more lines \.\.\.$", shown, re.MULTILINE)
    assert "Starting nats-server" not in shown
    assert "[TRC]" in shown
    assert len(result.stdout.lines) < 300


def test_markers_are_documented(suite) -> None:
    result = suite("", args=["--markers"])
    result.stdout.fnmatch_lines(["@pytest.mark.nats_server(**options): *"])
    result.stdout.fnmatch_lines(["@pytest.mark.nats_cluster(n=3, **options): *"])


def test_every_run_of_pytest_imports_little() -> None:
    """Next to the package itself, which cannot be avoided."""
    code = f"""
import pytest, sys, trio_nats
before = set(sys.modules)
import {OURS}
print(*sorted(set(sys.modules) - before))
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.split() == ["trio_nats.testing", OURS]
