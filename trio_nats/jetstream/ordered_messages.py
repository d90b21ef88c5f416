"""What an ordered consumer's ``consume`` makes."""

from __future__ import annotations

import logging
from collections import deque
from dataclasses import replace
from typing import cast

import trio

from ..errors import NatsError
from .channels import Messages
from .delivered import Desk, JetStreamMsg
from .feed import Broken, Feed, Link
from .succession import Succession, passes, pause
from .terms import ConsumeOptions

__all__ = ["OrderedMessages"]

_logger = logging.getLogger("trio_nats.jetstream")


class OrderedMessages(Messages):
    """Those of one consumer after the other."""

    def __init__(self, owner: Succession, options: ConsumeOptions) -> None:
        super().__init__(repr(owner), owner.api.nc.check_run)
        self._owner = owner
        self._api = owner.api
        self._options = options
        self._left = options.stop_after
        self._feed: Feed | None = None
        self._use = owner.use()
        self._in_use = False
        self._receiving = False
        self._barren = 0  # consumers in a row that were gone at once

    @property
    def waiting(self) -> int:
        """How many messages have come and were not received yet."""
        return 0 if self._feed is None else self._feed.waiting

    async def receive(self) -> JetStreamMsg:
        """The next message; waits for it. Cancelled, no message is lost."""
        self._check_entered()
        if self._receiving:
            raise trio.BusyResourceError("another task is receiving from this ordered consumer")
        self._receiving = True
        try:
            return await self._next()
        finally:
            self._receiving = False

    async def _next(self) -> JetStreamMsg:
        while self._left is None or self._left > 0:
            feed = self._feed
            if feed is None:
                await trio.lowlevel.checkpoint_if_cancelled()
                if self._state == "closed":
                    raise trio.ClosedResourceError("this channel of messages is closed")
                if self._state == "stopping":
                    raise trio.EndOfChannel
                await self._renew()
                continue
            try:
                msg = await feed.receive()
            except Broken as error:
                if error.gone and not feed.book.taken_in_all:
                    self._barren += 1
                await self._discard()
                continue
            match self._owner.follows(msg):
                case True:
                    self._barren = 0
                    if self._left is not None:
                        self._left -= 1
                    feed.last_seq = (feed.last_seq or 0) + 1
                    return msg
                case False:
                    await self._discard()
                case None:
                    continue
        await trio.lowlevel.checkpoint()
        raise trio.EndOfChannel

    async def _renew(self) -> None:
        """Another consumer, however long that takes."""
        if self._barren > 1:
            seconds = pause(self._barren - 2)
            _logger.warning(
                "%r: its consumers are gone at once; again in %g s", self._owner, seconds
            )
            await trio.sleep(seconds)
        waits = 0
        while self._feed is None and self._state == "open":
            try:
                await self._begin()
            except NatsError as error:
                if not passes(error):
                    raise
                _logger.warning("%r: %s; trying again", self._owner, error)
                await trio.sleep(pause(waits))
                waits += 1

    async def _begin(self) -> None:
        name = await self._owner.ensure()
        feed = Feed(
            self._api,
            cast("Link", self._api.nc),
            self._owner.stream,
            name,
            Desk(self._api.nc, self._owner.stream, name, acks=False),
            replace(self._options, stop_after=self._left),
            deque(),
            fragile=True,
        )
        await feed.open()
        if self._state == "open":
            assert self._nursery is not None
            self._nursery.start_soon(feed.keep)
            self._feed = feed
        else:
            # What it has asked for comes to nobody.
            self._owner.forget()
            await feed.close()

    async def _discard(self) -> None:
        """What this one still has does not follow on what was handed out."""
        feed, self._feed = self._feed, None
        self._owner.forget()
        if feed is not None:
            await feed.close()

    async def _open(self, nursery: trio.Nursery) -> None:
        self._use.__enter__()
        self._in_use = True
        self._owner.forget()  # It may be in the middle of something.
        await self._begin()

    async def _close(self) -> None:
        if self._in_use:
            self._in_use = False
            self._use.__exit__(None, None, None)
            await self._discard()

    def _stop_asking(self) -> None:
        if self._feed is not None:
            self._feed.stop_asking()

    async def _drain(self) -> None:
        if self._feed is not None:
            await self._feed.drain()
