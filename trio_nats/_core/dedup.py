"""Recognises messages that arrive over two connections.

Messages have no identity in NATS. While two connections carry the same subscription, two messages
count as one if they agree in subject, reply, headers and data. If many are alike, such as
heartbeats, the first match is with the one that arrived at about the same time; the others follow
in order, and those before it arrived over one connection only.
"""

from __future__ import annotations

import logging
from collections import deque

from ..message import Msg

__all__ = ["DuplicateFilter"]

logger = logging.getLogger("trio_nats.reconnect")

_MOST = 1_000_000
"""Messages to remember; more than can be received while two connections overlap."""


class DuplicateFilter:
    """Remembers messages of one connection until they come over another one too.

    ``lag`` is the most seconds that may lie between the two, and ``most`` how many messages are
    remembered: one more, and all of them are forgotten, so that they may be handed out twice.
    """

    def __init__(self, lag: float, most: int = _MOST) -> None:
        self._lag = lag
        self._most = most
        self._count = 0
        # A queue of times only where several are alike: one for each would take most of a kilobyte
        # per message, at the very moment when a busy connection has twice as many as usual.
        self._times: dict[int, float | deque[float]] = {}
        self._aligned: set[int] = set()

    def remember(self, msg: Msg, now: float) -> None:
        """A message has come over the first connection."""
        if self._count >= self._most:
            logger.warning(
                "more than %d messages while changing servers; some may come twice", self._most
            )
            self._times.clear()
            self._aligned.clear()
            self._count = 0
        self._count += 1
        likeness = _likeness(msg)
        times = self._times.get(likeness)
        if times is None:
            self._times[likeness] = now
        elif isinstance(times, deque):
            times.append(now)
        else:
            self._times[likeness] = deque((times, now))

    def is_duplicate(self, msg: Msg, now: float) -> bool:
        """Whether a message that came over the second connection at ``now`` was remembered.

        Each remembered message is matched once.
        """
        likeness = _likeness(msg)
        times = self._times.get(likeness)
        if times is None:
            return False
        if not isinstance(times, deque):
            del self._times[likeness]
            self._aligned.add(likeness)
            return abs(times - now) <= self._lag
        if likeness not in self._aligned:
            self._aligned.add(likeness)
            while len(times) > 1 and abs(times[1] - now) <= abs(times[0] - now):
                times.popleft()
        if len(times) == 1:
            del self._times[likeness]
        return abs(times.popleft() - now) <= self._lag


def _likeness(msg: Msg) -> int:
    # A hash in place of what it is of, so that payloads are not kept.
    return hash((msg.sid, msg.raw_subject, msg.raw_reply, msg.data, msg.raw_headers))
