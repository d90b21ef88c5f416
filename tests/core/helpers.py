"""Frames into and out of an outbox, whole."""

from __future__ import annotations

from trio_nats._core.outbox import Chunk, Outbox

__all__ = ["frames_of", "put"]


def put(box: Outbox, *frames: bytes) -> None:
    """Add frames: messages as the connection does, everything else as a command."""
    for frame in frames:
        if frame.startswith((b"PUB ", b"HPUB ")):
            assert frame.endswith(b"\r\n")
            box.append((frame[:5], frame[5:-2], frame[-2:]))
        else:
            box.command(frame)


def frames_of(chunk: Chunk) -> list[bytes]:
    """The whole frames of a chunk."""
    return [b"".join(chunk[start : start + 3]) for start in range(0, len(chunk), 3)]
