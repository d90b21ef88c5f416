"""Inboxes for the answers to pulls, kept so that a pull costs no subscription."""

from __future__ import annotations

import secrets

import trio

from ...connection_base import BaseConnection
from ...errors import NatsError
from ...message import Msg
from ...options import PendingLimits

__all__ = ["Inbox", "InboxPool"]

MAX_SPARE = 16
"""The most inboxes that are kept."""


class Inbox:
    """A subscription for answers to one pull after the other."""

    def __init__(self, nc: BaseConnection) -> None:
        self.name: str = nc.new_inbox()
        # What comes is taken out as it comes, so the limits are those of a storm, not of the user.
        self.sub = nc.subscribe(f"{self.name}.*", pending_limits=PendingLimits())

    def next_reply(self) -> bytes:
        """The reply subject of another pull."""
        # Who sees the pulls of another call must not be able to answer this one.
        return f"{self.name}.{secrets.token_urlsafe(9)}".encode()

    def take_nowait(self) -> Msg | None:
        """A message, if one has come."""
        try:
            return self.sub.receive_nowait()
        except (trio.WouldBlock, trio.ClosedResourceError, trio.EndOfChannel, NatsError):
            return None


class InboxPool:
    """The inboxes of a connection that no pull uses."""

    def __init__(self, nc: BaseConnection) -> None:
        self._nc = nc
        self._spare: list[Inbox] = []

    async def take(self) -> Inbox:
        """An inbox that is subscribed to. If cancelled, nothing has happened."""
        while self._spare:
            inbox = self._spare.pop()
            try:
                inbox.sub.receive_nowait()
            except trio.WouldBlock:
                return inbox
            except (trio.ClosedResourceError, trio.EndOfChannel, NatsError):
                continue  # The connection was drained, say.
            await inbox.sub.aclose()  # Something came that was not asked for.
        inbox = Inbox(self._nc)
        await inbox.sub.__aenter__()
        return inbox

    def keep(self, inbox: Inbox) -> bool:
        """Keep an inbox that nothing more can come to. Returns whether there was room for it."""
        if len(self._spare) >= MAX_SPARE:
            return False
        self._spare.append(inbox)
        return True
