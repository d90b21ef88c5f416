"""Filter out messages that arrive a second time over another connection.

NATS messages carry no identifier. While two connections carry the same subscription, two messages
count as the same one if their subject, reply, headers and data are equal. If several remembered
messages are equal, such as heartbeats, the first duplicate is matched with the one that arrived at
about the same time. Earlier ones arrived over one connection only; later ones are matched in order.
"""

from __future__ import annotations

import logging
from collections import deque

from ..message import Msg

__all__ = ["DuplicateFilter"]

logger = logging.getLogger("trio_nats.reconnect")

_MAX_MESSAGES = 1_000_000
"""Maximum number of messages to remember: more than are likely to arrive during an overlap."""


class DuplicateFilter:
    """Remember the messages of one connection until they arrive over another one too.

    :param lag: maximum number of seconds between the two arrivals.
    :param max_messages: maximum number of messages to remember. At one more, all are forgotten, so
        some messages may be delivered twice.
    """

    def __init__(self, lag: float, max_messages: int = _MAX_MESSAGES) -> None:
        self._lag = lag
        self._max_messages = max_messages
        self._count = 0
        # Times of arrival, by fingerprint. Only equal messages need a deque. One for each message
        # would take almost a kilobyte, just while everything arrives twice.
        self._times: dict[int, float | deque[float]] = {}
        self._aligned: set[int] = set()

    def remember(self, msg: Msg, now: float) -> None:
        """Remember a message that arrived over the first connection."""
        if self._count >= self._max_messages:
            logger.warning(
                "more than %d messages arrived while changing servers; some may be delivered twice",
                self._max_messages,
            )
            self._times.clear()
            self._aligned.clear()
            self._count = 0
        self._count += 1
        fingerprint = _fingerprint(msg)
        times = self._times.get(fingerprint)
        if times is None:
            self._times[fingerprint] = now
        elif isinstance(times, deque):
            times.append(now)
        else:
            self._times[fingerprint] = deque((times, now))

    def is_duplicate(self, msg: Msg, now: float) -> bool:
        """Return whether a message of the second connection has arrived over the first one, too.

        Each remembered message matches only once.
        """
        fingerprint = _fingerprint(msg)
        times = self._times.get(fingerprint)
        if times is None:
            return False
        if not isinstance(times, deque):
            del self._times[fingerprint]
            self._aligned.add(fingerprint)
            return abs(times - now) <= self._lag
        if fingerprint not in self._aligned:
            self._aligned.add(fingerprint)
            while len(times) > 1 and abs(times[1] - now) <= abs(times[0] - now):
                times.popleft()
        if len(times) == 1:
            del self._times[fingerprint]
        return abs(times.popleft() - now) <= self._lag


def _fingerprint(msg: Msg) -> int:
    # Only a hash, so that payloads are not kept in memory.
    return hash((msg.sid, msg.raw_subject, msg.raw_reply, msg.data, msg.raw_headers))
