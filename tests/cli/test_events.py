"""Tests of ``events`` with the advisories of a real server, and with forged ones."""

from __future__ import annotations

import json
import signal
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import trio

from tests.cli.helpers import HANG_TIMEOUT, Running, cli, lines, running
from trio_nats import Connection, open_nats

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def js_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server with the stream ``S`` and its consumer ``c``."""
    store = tmp_path_factory.mktemp("store")
    with running("server", "--jetstream", "--port", 0, "--store", store) as server:
        server.said("Press Ctrl-C to stop")
        url = server.output.strip()

        async def prepare(nc: Connection) -> None:
            stream = await nc.jetstream().create_stream("S", subjects=["s"])
            await stream.create_consumer("c", durable_name="c")
            await stream.create_consumer("d", durable_name="d")

        do(url, prepare)
        yield url
        server.kill(signal.SIGTERM)
        server.finish()


def do(url: str, action: Callable[[Connection], Awaitable[object]]) -> None:
    async def main() -> None:
        with trio.fail_after(HANG_TIMEOUT):
            async with open_nats(url) as nc:
                await action(nc)

    trio.run(main)


@contextmanager
def listening(url: str, *args: object) -> Iterator[Running]:
    with running("events", *args, "-s", url) as events:
        events.said("Listening to advisories of ")
        yield events


async def term(nc: Connection) -> None:
    js = nc.jetstream()
    await js.publish("s", b"x")
    for name in ("d", "c"):
        msg = await (await js.stream("S")).bind_consumer(name).next()
        assert msg.raw.reply is not None
        # This client would not send such a reason.
        await nc.publish(msg.raw.reply, "+TERM \x1b[31mred\u202e")


FORGED = b'{"type":"io.nats.x\\u001b[2J","stream":"S","consumer":"c","a\\u001b":["\\u009b1m"]}'


async def forge(nc: Connection) -> None:
    await nc.publish("$JS.EVENT.ADVISORY.CONSUMER.X.S.c", FORGED)


def test_text(js_url: str) -> None:
    with listening(js_url, "S", "--count", 3) as events:
        do(js_url, term)
        do(js_url, forge)
        assert events.finish() == 0
        first, second, forged = lines(events.output)
    assert "  terminated  S > d  " in first
    assert r"  terminated  S > c  stream_seq=1  consumer_seq=" in second
    assert second.endswith(r"reason=\x1b[31mred\u202e")
    assert forged.isprintable()
    assert forged.startswith("-  ")


def test_one_consumer_as_json(js_url: str) -> None:
    with listening(js_url, "S", "c", "--kind", "terminated", "--json", "--count=1") as events:
        do(js_url, term)
        assert events.finish() == 0
        output = events.output
    assert output.isascii()
    (line,) = lines(output)
    advisory = json.loads(line)
    assert advisory["type"] == "io.nats.jetstream.advisory.v1.terminated"
    assert (advisory["stream"], advisory["consumer"]) == ("S", "c")
    assert advisory["reason"] == "\x1b[31mred\u202e"


def test_forged_json_is_only_ascii(js_url: str) -> None:
    with listening(js_url, "S", "--json", "--count=1") as events:
        do(js_url, forge)
        assert events.finish() == 0
        output = events.output
    assert json.loads(output)["data"] == json.loads(FORGED)
    assert output.isascii()
    assert output.strip().isprintable()


def test_ends_of_the_command(js_url: str) -> None:
    done = cli("events", "S", "--wait", "10ms", "-s", js_url)
    assert (done.exit_code, done.stdout) == (0, "")
    with listening(js_url, "S") as events:
        events.kill(signal.SIGINT)
        assert events.finish() == 130


def test_invalid_arguments(js_url: str, tmp_path: Path) -> None:
    done = cli("events", "S", "--kind", "new", "-s", js_url)
    assert done.exit_code == 2
    assert "--kind must be one of " in done.stderr
    assert "max_deliver" in done.stderr
    done = cli("events", "NONE", "-s", js_url)
    assert done.exit_code == 1
    assert "stream 'NONE' not found" in done.stderr
    done = cli("events", "S", "nobody", "-s", js_url)
    assert "consumer 'nobody' of stream 'S' not found" in done.stderr
    # The prefixes are those of the context.
    context = tmp_path / "mine.json"
    context.write_text(json.dumps({"url": js_url, "jetstream_domain": "far"}))
    done = cli("events", "S", "--context", context)
    assert done.exit_code == 1
    assert "JetStream" in done.stderr
