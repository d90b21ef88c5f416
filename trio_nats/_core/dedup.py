"""Recognise messages that arrive over two connections.

NATS messages have no identity. While two connections carry the same subscription, two messages
count as one if their subject, reply, headers and data are equal. If many messages are equal, such
as heartbeats, the first match is the one that arrived at about the same time. The later ones are
matched in order; the earlier ones arrived over one connection only.
"""

from __future__ import annotations

import logging
from collections import deque

from ..message import Msg

__all__ = ["DuplicateFilter"]

logger = logging.getLogger("trio_nats.reconnect")

_MAX_MESSAGES = 1_000_000
"""Maximum number of remembered messages: more than can arrive while two connections overlap."""


class DuplicateFilter:
    """Remember the messages of one connection until they arrive over another one too.

    :param lag: maximum number of seconds between the two arrivals.
    :param max_messages: maximum number of messages to remember. If there are more, all of them are
        forgotten, so some messages may be delivered twice.
    """

    def __init__(self, lag: float, max_messages: int = _MAX_MESSAGES) -> None:
        self._lag = lag
        self._max_messages = max_messages
        self._count = 0
        # Equal messages share a queue of times. A queue for each message would cost almost a
        # kilobyte, while a busy connection already receives twice as many messages as usual.
        self._times: dict[int, float | deque[float]] = {}
        self._aligned: set[int] = set()

    def remember(self, msg: Msg, now: float) -> None:
        """Remember a message that arrived over the first connection."""
        if self._count >= self._max_messages:
            logger.warning(
                "more than %d messages while changing servers; some may be delivered twice",
                self._max_messages,
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
        """Whether a message that arrived over the second connection at ``now`` is remembered.

        Each remembered message matches once.
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
    # A hash, so that payloads are not kept.
    return hash((msg.sid, msg.raw_subject, msg.raw_reply, msg.data, msg.raw_headers))
