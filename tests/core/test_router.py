"""The router against a model of the server: what it says is what the server must know."""

from __future__ import annotations

import random

import pytest
import trio
import trio.testing

from tests.core.helpers import frames_of
from tests.support.internals import quiesced
from trio_nats import Msg, PermissionsViolationError
from trio_nats._core.outbox import Outbox
from trio_nats._core.router import Router


class Channel:
    """A subscription that remembers what becomes of it."""

    def __init__(self, subject: bytes, queue: bytes | None = None, remaining: int | None = None):
        self._raw_subject = subject
        self._raw_queue = queue
        self._remaining = remaining
        self.pending = (0, 0)
        self.got: list[Msg] = []
        self.ended: Exception | None = None

    async def _wait_empty(self) -> None:
        await trio.lowlevel.checkpoint()

    def _wake_waiters(self) -> None:
        pass

    def _end_stalls(self) -> None:
        pass

    def _push(self, msg: Msg) -> None:
        self.got.append(msg)

    def _push_burst(self, messages: list[Msg], size: int) -> None:
        self.got += messages

    def _end(self, error: Exception) -> None:
        self.ended = error


class Server:
    """What a server makes of SUB and UNSUB."""

    def __init__(self) -> None:
        self.subs: dict[bytes, tuple[bytes, bytes | None, int | None]] = {}

    def hear(self, frames: list[bytes]) -> None:
        for line in b"".join(frames).split(b"\r\n")[:-1]:
            operation, *words = line.split()
            if operation == b"SUB":
                *name, sid = words
                assert sid not in self.subs, "subscribed twice under one number"
                self.subs[sid] = (name[0], name[1] if len(name) == 2 else None, None)
            else:
                assert operation == b"UNSUB"
                sid = words[0]
                assert sid in self.subs, "unsubscribed from what there is not"
                if len(words) == 1:
                    del self.subs[sid]
                else:
                    subject, queue, _ = self.subs[sid]
                    self.subs[sid] = (subject, queue, int(words[1]))


def new_router() -> tuple[Router, Outbox]:
    outbox = Outbox(1_000_000, "wait", lambda: None)
    return Router(outbox), outbox


def said(outbox: Outbox) -> list[bytes]:
    """What was queued for the server since the last time."""
    frames = []
    while outbox.size:
        chunk = outbox.take()
        frames += frames_of(chunk)
        outbox.written(sum(map(len, chunk)))
    return frames


@pytest.mark.parametrize("seed", range(30))
def test_the_server_always_knows_what_is_wanted(seed: int) -> None:
    """Over any sequence of subscribing, leaving, draining, losing a wire and changing it."""
    chance = random.Random(seed)
    router, outbox = new_router()
    server = Server()
    living: dict[bytes, Channel] = {}
    draining: set[bytes] = set()
    for _ in range(300):
        what = chance.random()
        some = chance.choice(list(living)) if living else None
        if what < 0.35:
            channel = Channel(
                chance.choice([b"a", b"b", b"c.>"]),
                chance.choice([None, b"q"]),
                chance.choice([None, None, 7]),
            )
            sid = router.add(channel)
            assert sid not in living
            living[sid] = channel
        elif some is not None and what < 0.5:
            router.remove(some)
            router.remove(some)
            del living[some]
            draining.discard(some)
        elif some is not None and what < 0.6:
            router.quiesce(some)
            draining.add(some)
        elif some is not None and what < 0.7:
            # The server does not carry it any more when it says so.
            denied = living.pop(some)
            draining.discard(some)
            server.hear(said(outbox) if router.live else [])
            server.subs.pop(some, None)
            error = PermissionsViolationError("no", "subscription", "?", sid=some.decode())
            assert router.deny(error)
            assert denied.ended is error
        elif what < 0.8:
            router.live = False
            outbox.remove_commands()
            server = Server()
        elif not router.live:
            server.hear(router.restore())
            router.live = True
        elif what < 0.9:
            # Another wire carries what there was at one moment, and hears what has changed since.
            server.hear(said(outbox))
            carried = dict(router.wanted())
            server = Server()
            server.hear(router.difference(()))
            router.live = False
            sid = router.add(late := Channel(b"late"))
            living[sid] = late
            if some is not None:
                router.remove(some)
                del living[some]
                draining.discard(some)
            outbox.remove_commands()
            server.hear(router.difference(carried))
            router.live = True
        if router.live:
            server.hear(said(outbox))
            expected = {
                sid: (channel._raw_subject, channel._raw_queue, channel._remaining)
                for sid, channel in living.items()
                if sid not in draining
            }
            assert server.subs == expected
        else:
            assert said(outbox) == []
        assert router.sinks == living
        assert quiesced(router) & living.keys() == draining


def test_removed_subscriptions_are_forgotten() -> None:
    router, _ = new_router()
    left, denied, over = (router.add(Channel(b"a")) for _ in range(3))
    for sid in (left, denied, over):
        router.quiesce(sid)
    router.remove(left)
    assert left not in quiesced(router)
    router.deny(PermissionsViolationError("no", "subscription", "a", sid=denied.decode()))
    assert denied not in quiesced(router)
    router.end_all(trio.ClosedResourceError())
    assert quiesced(router) == set()


def test_a_message_goes_to_its_subscription_or_nowhere() -> None:
    router, _ = new_router()
    one, two = Channel(b"a"), Channel(b"a")
    sid_one, sid_two = router.add(one), router.add(two)
    messages = [Msg(b"a", sid, None, b"x") for sid in (sid_one, sid_two, b"99", sid_one)]
    for message in messages:
        router.deliver(message)
    assert one.got == [messages[0], messages[3]]
    assert two.got == [messages[1]]
    router.quiesce(sid_one)
    router.deliver(messages[0])
    router.remove(sid_one)
    router.deliver(messages[0])
    assert len(one.got) == 3


async def test_reading_goes_on_when_the_last_full_one_has_room() -> None:
    router, _ = new_router()
    channels = [Channel(b"a") for _ in range(3)]
    sids = [router.add(channel) for channel in channels]
    await router.wait_unstalled()
    assert all(router.stall(channel) for channel in channels)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(router.wait_unstalled)
        for step in (
            lambda: router.unstall(channels[0]),
            lambda: router.remove(sids[1]),
        ):
            step()
            await trio.testing.wait_all_tasks_blocked()
            assert nursery.child_tasks
        # Full again before the reader has run: it has to wait on.
        router.unstall(channels[2])
        assert router.stall(channels[2])
        await trio.testing.wait_all_tasks_blocked()
        assert nursery.child_tasks
        router.deny(PermissionsViolationError("no", "subscription", "a", sid=sids[2].decode()))


async def test_at_the_end_nothing_stops_the_reading() -> None:
    router, _ = new_router()
    channel = Channel(b"a")
    router.add(channel)
    router.stall(channel)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(router.wait_unstalled)
        await trio.testing.wait_all_tasks_blocked()
        router.disable_stalls()
    assert not router.stall(channel)
    await router.wait_unstalled()


def test_all_subscriptions_are_ended_once() -> None:
    router, outbox = new_router()
    router.live = True
    channels = [Channel(b"a"), Channel(b"b", b"q")]
    sids = [router.add(channel) for channel in channels]
    said(outbox)
    error = trio.ClosedResourceError("over")
    router.end_all(error)
    assert all(isinstance(channel.ended, trio.ClosedResourceError) for channel in channels)
    assert router.sinks == {}
    # A subscription that leaves after that has nobody to tell.
    for sid in sids:
        router.remove(sid)
        router.quiesce(sid)
    assert said(outbox) == []
