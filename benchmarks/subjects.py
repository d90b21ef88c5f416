"""The subjects and headers that clients and loads use."""

from __future__ import annotations

__all__ = ["CONTROL", "HEADER", "REQUEST", "SINK", "STOP", "feed_subject"]

SINK = "bench.sink"
"""Subject of ``publish``. It has no subscribers, so the server only counts the messages."""
REQUEST = "bench.request"
CONTROL = "bench.control"
"""Subject on which the client grants the load more messages, as a decimal number."""
STOP = b"0"
"""Payload on :data:`CONTROL` that stops the load."""
HEADER = ("Bench-Number", "12345678")


def feed_subject(number: int) -> str:
    """Return a subject. All have the same length, so that all frames do."""
    return f"bench.feed.{number:05d}"
