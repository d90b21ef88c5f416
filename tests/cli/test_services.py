"""Tests of ``service`` with a service of this library and a hostile one."""

from __future__ import annotations

import json
import re
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest
import trio

from tests.cli.helpers import HANG_TIMEOUT, cli, lines, running
from trio_nats import open_nats
from trio_nats.services import Endpoint, ServiceError, ServiceRequest

QUICK = ("--reply-timeout", "250ms")


@contextmanager
def two_adders(url: str) -> Iterator[list[str]]:
    """Run two instances of a service during the block. Yields their IDs."""
    ready, over = threading.Event(), trio.Event()
    ids: list[str] = []
    tokens: list[trio.lowlevel.TrioToken] = []

    async def work(request: ServiceRequest) -> bytes:
        if not request.data:
            raise ServiceError(400, "nothing\x1b[31m to add")
        return request.data

    def data(endpoint: Endpoint) -> object:
        return {"name": endpoint.name}

    async def serve() -> None:
        tokens.append(trio.lowlevel.current_trio_token())
        async with open_nats(url) as nc:
            one = nc.add_service(
                "adder", version="1.0.0", description="adds \x1b[31mall", metadata={"team": "x\ny"}
            )
            two = nc.add_service("adder", version="1.1.0", stats_handler=data)
            async with one, two:
                for service in (one, two):
                    math = service.group("math", queue=None)
                    await math.add_endpoint("sum", work, metadata={"format": "json"})
                    await service.add_endpoint("other", work, queue="workers")
                ids.extend(sorted([one.id, two.id]))
                for payload in (b"1", b"2", b""):
                    await nc.request("math.sum", payload)
                await nc.flush()
                ready.set()
                await over.wait()

    with ThreadPoolExecutor(1) as pool:
        server = pool.submit(trio.run, serve)
        try:
            assert ready.wait(HANG_TIMEOUT)
            yield ids
        finally:
            tokens[0].run_sync_soon(over.set)
        server.result()


def rows(text: str) -> list[list[str]]:
    split = [[cell.strip() for cell in line.split("│")[1:-1]] for line in text.splitlines()]
    return [row for row in split if row]


@pytest.mark.slow
def test_ls(url: str) -> None:
    with two_adders(url) as ids:
        done = cli("service", "ls", "-s", url, *QUICK)
        assert done.exit_code == 0, done.stderr
        found = rows(done.stdout)
        assert sorted(row[2] for row in found) == ids
        assert sorted(row[1] for row in found) == ["1.0.0", "1.1.0"]
        assert sorted(row[3] for row in found) == ["", r"adds \x1b[31mall"]
        assert cli("micro", "list", "adder", "-s", url, *QUICK).stdout == done.stdout
        as_json = json.loads(cli("service", "ls", "--json", "-s", url, *QUICK).stdout)
        assert [one["id"] for one in as_json] == ids
        assert as_json[0]["endpoints"][0]["subject"] == "math.sum"


@pytest.mark.slow
def test_ping(url: str) -> None:
    with two_adders(url) as ids:
        done = cli("service", "ping", "-s", url, *QUICK)
        assert done.exit_code == 0, done.stderr
        found = [
            re.fullmatch(r"adder (\w{22}) +rtt=\d+\.\d\dms", one) for one in lines(done.stdout)
        ]
        assert sorted(one[1] for one in found if one) == ids
        as_json = json.loads(cli("service", "ping", "adder", "-j", "-s", url, *QUICK).stdout)
        assert all(0 < one["rtt"] < HANG_TIMEOUT for one in as_json)


@pytest.mark.slow
def test_stats(url: str) -> None:
    with two_adders(url) as ids:
        done = cli("service", "stats", "adder", "-s", url, *QUICK)
        assert done.exit_code == 0, done.stderr
        found = rows(done.stdout)
        assert [row[0] for row in found] == [ids[0], "", ids[1], "", ""]
        assert [row[1] for row in found] == ["sum", "other", "sum", "other", "all"]
        assert [row[2] for row in found] == ["", "workers", "", "workers", ""]
        assert [row[3:5] for row in found] == [["3", "1"], ["0", "0"]] * 2 + [["6", "2"]]
        assert re.fullmatch(r"[\d.]+(ns|us|ms)", found[0][5])
        one = cli("service", "stats", "adder", ids[1], "--json", "-s", url)
        (stats,) = json.loads(one.stdout)
        assert (stats["id"], stats["endpoints"][0]["num_requests"]) == (ids[1], 3)


@pytest.mark.slow
def test_info(url: str) -> None:
    with two_adders(url) as ids:
        shown = []
        for id in ids:
            done = cli("service", "info", "adder", id, "-s", url)
            assert done.exit_code == 0, done.stderr
            assert done.stderr == ""
            assert f"    service: adder ({id})\n" in done.stdout
            assert "\n      subject: math.sum\n" in done.stdout
            assert "\n     metadata: format: json\n" in done.stdout
            assert "\n   last error: 400:nothing\\x1b[31m to add\n" in done.stdout
            assert re.search(r"started: \d{4}-.* UTC \(\d+s ago\)\n", done.stdout)
            shown.append(done.stdout)
        text = "".join(shown)
        assert "    version: 1.0.0\n   metadata: team: x\n             y\n" in text
        assert 'data: {"name": "sum"}' in text
        done = cli("service", "info", "adder", "-e", "^oth", "-s", url, *QUICK)
        assert "one of 2 instances" in done.stderr
        assert "subject: other" in done.stdout
        assert "math.sum" not in done.stdout
        as_json = cli("service", "info", "adder", ids[0], "-j", "-e", "sum", "-s", url).stdout
        assert [one["name"] for one in json.loads(as_json)["info"]["endpoints"]] == ["sum"]
        assert [one["name"] for one in json.loads(as_json)["stats"]["endpoints"]] == ["sum"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("ls",), 1, "no services responded"),
        (("ping", "adder"), 1, "no service adder responded"),
        (("stats", "adder"), 1, "no service adder responded"),
        (("info", "adder", "x"), 1, "no service adder x responded"),
        (("info", "a.b"), 2, "service name 'a.b' is not allowed"),
        (("info", "adder", "-e", "("), 2, "--endpoint must be a regular expression, not '('"),
        (("info",), 2, "Missing argument"),
    ],
)
def test_no_services_or_wrong_arguments(
    url: str, arguments: tuple[str, ...], code: int, said: str
) -> None:
    done = cli("service", *arguments, "-s", url)
    assert done.exit_code == code
    assert said in done.stderr


@pytest.mark.slow
def test_serve(url: str) -> None:
    with running("service", "serve", "trial", "-H", "Color: red", "-s", url) as service:
        service.said('Listening on "trial.echo" as trial')
        done = cli("request", "trial.echo", "hello\x1b", "-H", "Size: 1", "-s", url)
        assert done.exit_code == 0, done.stderr
        assert [line for line in lines(done.stdout) if line][-3:] == [
            "Size: 1",
            "Color: red",
            "hello\x1b",
        ]
        (info,) = json.loads(cli("service", "ls", "trial", "-j", "-s", url, *QUICK).stdout)
        assert [one["subject"] for one in info["endpoints"]] == ["trial.echo"]
        (stats,) = json.loads(cli("service", "stats", "trial", info["id"], "-j", "-s", url).stdout)
        assert stats["endpoints"][0]["data"] == {"total_payload": 6}
        service.kill(signal.SIGINT)
        assert service.finish() == 130
        service.output_file.seek(0)
        assert b"[#1] Received" in service.output_file.read()
    assert cli("service", "ping", "-s", url).exit_code == 1
    done = cli("service", "serve", "a.b", "-s", url)
    assert (done.exit_code, "service name 'a.b'" in done.stderr) == (2, True)


@pytest.mark.slow
def test_info_about_endpoints_that_share_a_name(url: str) -> None:
    """Each is shown with its own numbers."""
    ready, over = threading.Event(), trio.Event()
    tokens: list[trio.lowlevel.TrioToken] = []

    async def work(request: ServiceRequest) -> bytes:
        return b""

    async def serve() -> None:
        def place(endpoint: Endpoint) -> object:
            return {"place": service.endpoints.index(endpoint)}

        tokens.append(trio.lowlevel.current_trio_token())
        async with (
            open_nats(url) as nc,
            nc.add_service("adder", version="1.0.0", stats_handler=place) as service,
        ):
            for queue in ("q", "q", "x", "q"):
                await service.add_endpoint("sum", work, queue=queue)
            await nc.flush()
            ready.set()
            await over.wait()

    with ThreadPoolExecutor(1) as pool:
        server = pool.submit(trio.run, serve)
        assert ready.wait(HANG_TIMEOUT)
        done = cli("service", "i", "adder", "-s", url, *QUICK)
        tokens[0].run_sync_soon(over.set)
        server.result()
    assert re.findall(r'{"place": (\d)}', done.stdout) == ["0", "1", "2", "3"]


def test_help() -> None:
    done = cli("service")
    assert done.exit_code == 0
    for command in ("ls", "ping", "stats", "info", "serve"):
        assert command in done.stdout
