"""A move that comes to nothing: the old connection goes on as if it had not begun."""

from __future__ import annotations

from typing import Any, cast

from tests.core.helpers import frames_of, put
from trio_nats._core.handover import Handover, HandoverLimits
from trio_nats._core.outbox import Outbox
from trio_nats._core.request_mux import RequestMux
from trio_nats._core.router import Router
from trio_nats._core.session import Session, SessionCallbacks
from trio_nats._core.stats import Counters


async def test_what_was_unwritten_is_written_or_given_up() -> None:
    outbox = Outbox(1024, "wait", lambda: None)
    router = Router(outbox)
    router.live = True
    old = Session(cast("Any", None), router, outbox, Counters(), SessionCallbacks())
    router.add(RequestMux(router, "one"))
    put(outbox, b"PUB a 0\r\n\r\n")
    before = old.pings.send()
    handover = Handover(router, old, HandoverLimits())
    carried = handover.begin(outbox)
    during = old.pings.send()
    router.live = False
    two = router.add(RequestMux(router, "two"))
    outbox.prepend(handover.fall_back(outbox))
    assert (before.lost, during.lost) == (True, True)
    # Each PONG is for a PING that was sent.
    after = old.pings.send()
    subs, message, ping = (frame for _ in range(3) for frame in frames_of(outbox.take()))
    assert subs.startswith(carried[0] + b"SUB two.")
    assert subs.endswith(two + b"\r\n")
    assert (message, ping) == (b"PUB a 0\r\n\r\n", b"PING\r\n")
    old.pings.pong()
    assert after.settled.is_set()
    assert not after.lost
