"""The subjects that clients and loads use, and what their frames look like."""

from __future__ import annotations

__all__ = ["CONTROL", "HEADER", "REQUEST", "SINK", "STOP", "feed_subject"]

SINK = "bench.sink"
"""Where ``publish`` goes. Nobody is subscribed: the server reads it and counts it."""
REQUEST = "bench.request"
CONTROL = "bench.control"
"""Where the client tells the load how many more messages it may send, as decimal digits."""
STOP = b"0"
"""On :data:`CONTROL`: the load ends."""
HEADER = ("Bench-Number", "12345678")


def feed_subject(number: int) -> str:
    """All of the same length, so that all frames are."""
    return f"bench.feed.{number:05d}"
