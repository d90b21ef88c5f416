"""A pool of inboxes for ``next`` and ``fetch``, so that a call needs no new subscription."""

from __future__ import annotations

import secrets

from ...connection_base import BaseConnection
from ...options import PendingLimits
from ...subscription import Subscription

__all__ = ["Inbox", "InboxPool"]

MAX_SPARE = 16
"""Maximum number of inboxes to keep."""


class Inbox:
    """A subscription for the answers to pull requests, one at a time."""

    def __init__(self, nc: BaseConnection) -> None:
        self.name: str = nc.new_inbox()
        # Messages are taken out at once, so these limits do not depend on those of the user.
        self.sub: Subscription = nc.subscribe(f"{self.name}.*", pending_limits=PendingLimits())

    def next_reply(self) -> bytes:
        """Return a reply subject for the next pull request."""
        # A client that sees one pull request must not be able to answer another.
        return f"{self.name}.{secrets.token_urlsafe(9)}".encode()


class InboxPool:
    """The unused inboxes of a connection."""

    def __init__(self, nc: BaseConnection) -> None:
        self._nc = nc
        self._spare: list[Inbox] = []

    async def take(self) -> Inbox:
        """Return an inbox that is subscribed. If cancelled, nothing has happened."""
        self._nc._check_run()
        while self._spare:
            inbox = self._spare.pop()
            if inbox.sub._ended is not None:
                continue  # The connection was drained, for example.
            if not inbox.sub._queue:
                return inbox
            await inbox.sub.aclose()  # It holds something that was not requested.
        inbox = Inbox(self._nc)
        await inbox.sub.__aenter__()
        return inbox

    def keep(self, inbox: Inbox) -> bool:
        """Keep an inbox to which nothing more can come. Return whether there was room for it."""
        if len(self._spare) >= MAX_SPARE:
            return False
        self._spare.append(inbox)
        return True
