"""Load generators: processes that send or reply with so little work that the client is measured.

They use blocking sockets, prepared frames, large reads and writes, and parse with a regular
expression only. ``python -m benchmarks.load feed|answer|ask SCENARIO --url URL`` prints "ready"
once it has subscribed, and prints its count as JSON when it is stopped.
"""

from __future__ import annotations

import argparse
import json
import re
import socket
import ssl
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from urllib.parse import urlsplit

from .scenarios import SCENARIOS, Scenario
from .subjects import CONTROL, HEADER, REQUEST, STOP, feed_subject

__all__ = ["main", "stop"]

READ = 256 * 1024
BLOCK = 512 * 1024
# Payloads consist of x, so they never match these.
_CONTROL = re.compile(rb"MSG bench\.control 1 \d+\r\n(\d+)\r\n")
_REQUEST = re.compile(rb"MSG bench\.request 2 (\S+) \d+\r\n|MSG bench\.control 1 1\r\n(0)\r\n")
_REPLIES = b"bench.replies"


@dataclass
class Address:
    url: str
    ca: str | None = None

    def open(self) -> socket.socket:
        """Return a socket on which INFO has been received, encrypted if ``ca`` is given."""
        parts = urlsplit(self.url)
        assert parts.hostname is not None
        raw = socket.create_connection((parts.hostname, parts.port or 4222), timeout=30)
        raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        _read_until(raw, b"\r\n")
        if self.ca is None:
            return raw
        context = ssl.create_default_context(cafile=self.ca)
        return context.wrap_socket(raw, server_hostname=parts.hostname)


def _read_until(sock: socket.socket, end: bytes) -> bytes:
    data = b""
    while not data.endswith(end):
        more = sock.recv(READ)
        if not more:
            raise ConnectionError("the server closed the connection of the load")
        data += more
    return data


class ServerConnection:
    """A connection to the server, with subscriptions."""

    def __init__(self, address: Address, *subscriptions: bytes) -> None:
        self._sock = address.open()
        hello = b'CONNECT {"verbose":false,"pedantic":false,"headers":true,"echo":false}\r\n'
        subs = b"".join(b"SUB %s\r\n" % subscription for subscription in subscriptions)
        self._sock.sendall(hello + subs + b"PING\r\n")
        answer = _read_until(self._sock, b"PONG\r\n")
        if b"-ERR" in answer:
            raise ConnectionError(answer.decode())
        # No timeout from now on, because the client may be slow. The runner has one.
        self._sock.settimeout(None)

    def read(self) -> bytes:
        """Receive at least one byte, and answer PINGs."""
        data = self._sock.recv(READ)
        if not data:
            raise ConnectionError("the server closed the connection of the load")
        if b"PING\r\n" in data:
            self._sock.sendall(b"PONG\r\n")
        if b"-ERR" in data:
            raise ConnectionError(data[data.index(b"-ERR") :][:200].decode("ascii", "replace"))
        return data

    def send(self, data: bytes | memoryview) -> None:
        self._sock.sendall(data)

    def close(self) -> None:
        self._sock.close()


def feed(address: Address, scenario: Scenario) -> dict[str, int]:
    """Send as many messages as the client grants, to each subject in turn."""
    frames = [_message(scenario, number) for number in range(scenario.subjects)]
    length = len(frames[0])
    copies = max(1, BLOCK // (length * len(frames)))
    block = memoryview(b"".join(frames) * copies)
    connection = ServerConnection(address, b"bench.control 1")
    sent = at = 0
    for grant in _grants(connection):
        left = grant * length
        while left:
            part = block[at : at + left]
            connection.send(part)
            left -= len(part)
            at = (at + len(part)) % len(block)
        sent += grant
    connection.close()
    return {"messages": sent}


def _message(scenario: Scenario, number: int) -> bytes:
    subject, payload = feed_subject(number).encode(), b"x" * scenario.size
    if not scenario.headers:
        return b"PUB %s %d\r\n%s\r\n" % (subject, len(payload), payload)
    block = "NATS/1.0\r\n{}: {}\r\n\r\n".format(*HEADER).encode()
    sizes = (len(block), len(block) + len(payload))
    return b"HPUB %s %d %d\r\n%s%s\r\n" % (subject, *sizes, block, payload)


def _grants(connection: ServerConnection, ready: bool = True) -> Iterator[int]:
    """Yield the numbers of messages that the client grants, until it stops the load."""
    if ready:
        _say_ready()
    pending = b""
    while True:
        pending += connection.read()
        end = 0
        for match in _CONTROL.finditer(pending):
            end = match.end()
            if match[1] == STOP:
                return
            yield int(match[1])
        pending = pending[end:]


def answer(address: Address, scenario: Scenario) -> dict[str, int]:
    """Answer every request."""
    payload = b"x" * scenario.size
    reply = b"PUB %%s %d\r\n%s\r\n" % (len(payload), payload)
    connection = ServerConnection(address, b"bench.control 1", b"bench.request 2")
    _say_ready()
    answered = 0
    pending = b""
    while True:
        pending += connection.read()
        end = 0
        replies = []
        stopped = False
        for match in _REQUEST.finditer(pending):
            end = match.end()
            if match[1] is None:
                stopped = True
            else:
                replies.append(reply % match[1])
        pending = pending[end:]
        if replies:
            connection.send(b"".join(replies))
            answered += len(replies)
        if stopped:
            connection.close()
            return {"messages": answered}


def ask(address: Address, scenario: Scenario) -> dict[str, int]:
    """Send as many requests as the client grants, ``concurrency`` at a time."""
    payload = b"x" * scenario.size
    frame = b"PUB %s %s %d\r\n%s\r\n" % (REQUEST.encode(), _REPLIES, len(payload), payload)
    frames = memoryview(frame * scenario.concurrency)
    mark = b"MSG %s 1 " % _REPLIES
    control = ServerConnection(address, b"bench.control 1")
    connection = ServerConnection(address, b"%s 1" % _REPLIES)
    answered = 0
    for grant in _grants(control):
        first = min(grant, scenario.concurrency)
        connection.send(frames[: first * len(frame)])
        unsent, missing, rest = grant - first, grant, b""
        while missing:
            data = rest + connection.read()
            count = data.count(mark)
            rest = data[-(len(mark) - 1) :]
            missing -= count
            more = min(count, unsent)
            unsent -= more
            if more:
                connection.send(frames[: more * len(frame)])
        answered += grant
    connection.close()
    control.close()
    return {"messages": answered}


def _say_ready() -> None:
    print("ready", flush=True)


def stop(url: str, ca: str | None = None) -> None:
    """Stop the load."""
    connection = ServerConnection(Address(url, ca))
    connection.send(b"PUB %s 1\r\n%s\r\nPING\r\n" % (CONTROL.encode(), STOP))
    connection.read()
    connection.close()


LOADS = {"feed": feed, "answer": answer, "ask": ask}


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.load")
    parser.add_argument("load", choices=LOADS)
    parser.add_argument("scenario", choices=SCENARIOS, metavar="scenario")
    parser.add_argument("--url", required=True)
    parser.add_argument("--ca", help="PEM file of the authority; enables TLS")
    parser.add_argument("--size", type=int, help="payload size in bytes; default: the scenario's")
    options = parser.parse_args(argv)
    scenario = SCENARIOS[options.scenario]
    if options.size is not None:
        scenario = scenario.with_size(options.size)
    count = LOADS[options.load](Address(options.url, options.ca), scenario)
    json.dump(count, sys.stdout)
    print()


if __name__ == "__main__":
    main()
