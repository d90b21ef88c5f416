"""What a parser says, message by message."""

from __future__ import annotations

from trio_nats._protocol.parser import Burst, Event, Parser

__all__ = ["feed"]


def feed(parser: Parser, data: bytes) -> list[Event]:
    """Every event of ``data``, bursts taken apart and checked."""
    events: list[Event] = []
    for event in parser.feed(data):
        if not isinstance(event, Burst):
            events.append(event)
            continue
        assert len(event.messages) > 1
        assert {msg.sid for msg in event.messages} == {event.sid}
        sizes = [len(msg.data) + len(msg.raw_headers or b"") for msg in event.messages]
        assert event.size == sum(sizes)
        events += event.messages
    return events
