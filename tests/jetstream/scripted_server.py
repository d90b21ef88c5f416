"""A server with one consumer, which does what the test says; and a connection to it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import trio

from tests.jetstream.helpers import HANG_TIMEOUT
from tests.support.peer import Peer, ScriptedServer
from trio_nats import Connection, ReconnectPolicy, open_nats
from trio_nats._constructors import construct
from trio_nats.jetstream import Consumer, ConsumerConfig, ConsumerInfo
from trio_nats.jetstream.api import API

__all__ = ["QUICK", "Pulled", "Puller", "bound", "pulled_from"]

QUICK = ReconnectPolicy(wait=0.001, max_wait=0.01)


class Pulled(msgspec.Struct):
    """A pull that has come in."""

    reply: str
    request: dict[str, Any]
    peer: Peer

    @property
    def batch(self) -> int:
        size: int = self.request["batch"]
        return size

    @property
    def is_refused(self) -> bool:
        """Whether any server refuses it, so that the client just waits for the answer."""
        return bool(self.request.get("no_wait") and self.request.get("idle_heartbeat"))


class Puller:
    """The script of a server for one consumer, ``C`` of stream ``S``."""

    def __init__(self, *, api: dict[str, Any] | None = None) -> None:
        self.sequence = 0
        self.consumer_sequence = 0
        self.consumer = "C"
        self.answers: list[tuple[str, bytes]] = []
        """What else was published: acknowledgements, and requests to the API."""
        known = {"CONSUMER.INFO.S.C": {"stream_name": "S", "name": "C", "config": {}}}
        self.api = known | (api or {})
        """Answers of the API, by the suffix of the subject."""
        self.subscriptions: dict[bytes, bytes] = {}
        self.peers: list[Peer] = []
        self.silent = False
        """Whether it answers nothing any more."""
        self.before_unsub: Callable[[], Awaitable[None]] | None = None
        """Called once, before the next UNSUB is processed."""
        self.before_refusal: Callable[[], Awaitable[None]] | None = None
        """Called once, before the next request that is refused."""
        self._send: trio.MemorySendChannel[Pulled]
        self._send, self._pulls = trio.open_memory_channel[Pulled](1000)
        self._heard = trio.lowlevel.ParkingLot()

    async def __call__(self, peer: Peer) -> None:
        self.peers.append(peer)
        await peer.send_info(client_id=id(peer) % 10**9)
        await peer.accept_connect()
        self.subscriptions = {}
        while await peer.peek():
            line = await peer.expect_line()
            operation, *arguments = line.split()
            if self.silent and operation in (b"PING", b"PUB"):
                if operation == b"PUB":
                    await peer.receive_exactly(int(arguments[-1]) + 2)
            elif operation == b"PING":
                await peer.send(b"PONG\r\n")
            elif operation == b"SUB":
                self.subscriptions[arguments[-1]] = arguments[0]
            elif operation == b"UNSUB":
                if self.before_unsub is not None:
                    before, self.before_unsub = self.before_unsub, None
                    await before()
                self.subscriptions.pop(arguments[0], None)
            elif operation in (b"PUB", b"HPUB"):
                data = (await peer.receive_exactly(int(arguments[-1]) + 2))[:-2]
                if operation == b"HPUB":
                    data = data[int(arguments[-2]) :]
                reply = arguments[1].decode() if arguments[1:] and b"INBOX" in arguments[1] else ""
                await self._published(peer, arguments[0].decode(), reply, data)
            self._heard.unpark_all()

    async def _published(self, peer: Peer, subject: str, reply: str, data: bytes) -> None:
        if subject == "$JS.API.CONSUMER.MSG.NEXT.S." + self.consumer:
            pull = Pulled(reply, msgspec.json.decode(data), peer)
            if pull.is_refused:
                await self.refuse(pull)
            else:
                self._send.send_nowait(pull)
            return
        self.answers.append((subject, data))
        for suffix, answer in self.api.items():
            known = [one.decode().removesuffix("*") for one in self.subscriptions.values()]
            if subject.startswith(f"$JS.API.{suffix}") and reply.startswith(tuple(known)):
                found = answer(subject, data) if callable(answer) else answer
                payload = msgspec.json.encode(found)
                sid = self.sid_of(reply)
                await peer.send(
                    b"MSG %b %b %d\r\n%b\r\n" % (reply.encode(), sid, len(payload), payload)
                )

    def sid_of(self, reply: str) -> bytes:
        """The number of the subscription that ``reply`` goes to."""
        for sid, subject in self.subscriptions.items():
            front = subject.decode().removesuffix("*")
            if reply.startswith(front):
                return sid
        raise AssertionError(f"nobody is subscribed to {reply}: {self.subscriptions}")

    async def pull(self) -> Pulled:
        """The next pull that comes in."""
        return await self._pulls.receive()

    def no_pull(self) -> bool:
        """Whether all of them were taken."""
        return self._pulls.statistics().current_buffer_used == 0

    async def until(self, count: int) -> list[tuple[str, bytes]]:
        """All that was published, once it is so much."""
        while len(self.answers) < count:
            await self._heard.park()
        return self.answers

    def is_subscribed(self, pull: Pulled) -> bool:
        return any(
            pull.reply.startswith(one.decode().removesuffix("*"))
            for one in self.subscriptions.values()
        )

    async def deliver(self, pull: Pulled, count: int = 1, *, size: int = 1, skip: int = 0) -> None:
        """Messages for a pull; ``skip`` so many that get lost on the way before."""
        frames = b""
        sid = self.sid_of(pull.reply)
        self.sequence += skip
        self.consumer_sequence += skip
        for _ in range(count):
            self.sequence += 1
            self.consumer_sequence += 1
            frames += self.frame(sid, b"x" * size)
        await pull.peer.send(frames)

    def frame(self, sid: bytes, data: bytes) -> bytes:
        reply = (
            f"$JS.ACK.S.{self.consumer}.1.{self.sequence}.{self.consumer_sequence}"
            ".1700000000000000000.0"
        )
        return b"MSG s.%d %b %b %d\r\n%b\r\n" % (
            self.sequence,
            sid,
            reply.encode(),
            len(data),
            data,
        )

    async def refuse(self, pull: Pulled) -> None:
        """Answer a request that every server refuses, after all that was delivered."""
        if self.before_refusal is not None:
            before, self.before_refusal = self.before_refusal, None
            await before()
        await self.say(pull, "400 Bad Request - heartbeat value too large")

    async def say(self, pull: Pulled, line: str, **headers: object) -> None:
        """A status."""
        block = f"NATS/1.0 {line}\r\n"
        for name, value in headers.items():
            block += f"Nats-{name.title().replace('_', '-')}: {value}\r\n"
        raw = (block + "\r\n").encode()
        await pull.peer.send(
            b"HMSG %b %b %d %d\r\n%b\r\n"
            % (pull.reply.encode(), self.sid_of(pull.reply), len(raw), len(raw), raw)
        )


def bound(nc: Connection, config: ConsumerConfig | None = None) -> Consumer:
    """The consumer, without asking for it."""
    info = None
    if config is not None:
        info = ConsumerInfo(stream_name="S", name="C", config=config)
    return construct(Consumer, API(nc), "S", "C", info)


@asynccontextmanager
async def pulled_from(
    puller: Puller, config: ConsumerConfig | None = None, **options: Any
) -> AsyncIterator[tuple[Consumer, Connection]]:
    """The consumer, and the connection."""
    with trio.fail_after(HANG_TIMEOUT):
        async with (
            ScriptedServer(puller) as server,
            open_nats(f"nats://127.0.0.1:{server.port}", **{"reconnect": QUICK, **options}) as nc,
        ):
            yield bound(nc, config), nc
