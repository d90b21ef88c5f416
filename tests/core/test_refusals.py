"""Many permission errors at once: which subscriptions and requests they affect, and the cost."""

from __future__ import annotations

import random
from typing import Literal

import pytest

from tests.support.internals import unconfirmed
from trio_nats import Msg, PermissionsViolationError, ServerReportedError
from trio_nats._core.outbox import Outbox
from trio_nats._core.request_mux import RequestMux
from trio_nats._core.router import Router, Unconfirmed

MANY = 2000


class Looks:
    """Counts how often subjects are looked at."""

    def __init__(self) -> None:
        self.count = 0


class Watched:
    """A subscription, and what waits for a reply, in one."""

    _raw_queue: bytes | None = None
    _remaining: int | None = None
    pending = (0, 0)

    def __init__(self, subject: str, looks: Looks) -> None:
        self._subject = subject
        self._looks = looks
        self.ended: list[Exception] = []

    @property
    def subject(self) -> str:
        self._looks.count += 1
        return self._subject

    @property
    def _raw_subject(self) -> bytes:
        return self.subject.encode()

    async def _wait_empty(self) -> None: ...
    def _wake_waiters(self) -> None: ...
    def _end_stalls(self) -> None: ...
    def _push(self, msg: Msg) -> None: ...
    def _push_burst(self, messages: list[Msg], size: int) -> None: ...

    def _end(self, error: Exception) -> None:
        self.ended.append(error)


def forbidden(
    number: int, operation: Literal["publish", "subscription"]
) -> PermissionsViolationError:
    return PermissionsViolationError("no", operation, f"s.{number}")


def parts() -> tuple[Router, RequestMux]:
    router = Router(Outbox(1_000_000, "wait", lambda: None))
    return router, RequestMux(router, "_INBOX")


def test_a_forbidden_subscription_is_found_by_its_number() -> None:
    router, _ = parts()
    looks = Looks()
    sinks = [Watched(f"s.{number}", looks) for number in range(MANY)]
    for sink in sinks:
        router.add(sink)
    looks.count = 0
    # From a server that gives no numbers.
    for number in reversed(range(MANY)):
        assert router.deny(forbidden(number, "subscription"))
    assert all(len(sink.ended) == 1 for sink in sinks)
    assert looks.count <= 4 * MANY
    assert router.sinks == {}
    assert not router.deny(forbidden(1, "subscription"))


def test_forbidden_requests_are_found_without_looking_at_all_each_time() -> None:
    _, requests = parts()
    looks = Looks()
    slots = [Watched(f"s.{number}", looks) for number in range(MANY)]
    for slot in slots:
        requests.open(requests.new_token()[0], slot)
    looks.count = 0
    for number in reversed(range(MANY)):
        assert requests.deny(forbidden(number, "publish"))
    assert all(len(slot.ended) == 1 for slot in slots)
    assert looks.count <= 2 * MANY
    assert requests.slots == {}
    late = Watched("s.1", looks)
    requests.open(requests.new_token()[0], late)
    assert requests.deny(forbidden(1, "publish"))
    assert len(late.ended) == 1


def test_requests_that_are_over_are_not_told() -> None:
    _, requests = parts()
    slots = [Watched("s.1", Looks()) for _ in range(3)]
    tokens = [requests.new_token()[0] for _ in slots]
    for token, slot in zip(tokens, slots, strict=True):
        requests.open(token, slot)
    requests.close(tokens[1])
    assert requests.deny(forbidden(1, "publish"))
    assert [len(slot.ended) for slot in slots] == [1, 0, 1]
    assert not requests.deny(forbidden(1, "publish"))


@pytest.mark.parametrize("seed", range(20))
def test_the_ones_that_are_too_many_are_the_last_ones(seed: int) -> None:
    """Against a server that allows so many; its errors come some time later."""
    chance = random.Random(seed)
    allowed = chance.randrange(30)
    sent = Unconfirmed()
    taken = refused = 0
    errors: list[bytes] = []
    hit: list[bytes] = []
    expected: list[bytes] = []
    for number in range(100):
        sid = b"%d" % number
        sent.sent(sid)
        if taken < allowed:
            taken += 1
        else:
            refused += 1
            expected.append(sid)
            errors.append(sid)
        while errors and chance.random() < 0.4:
            errors.pop(0)
            hit.append(sent.refused() or b"none")
        if not errors and chance.random() < 0.3:
            sent.confirm(sent.position)
    while errors:
        errors.pop(0)
        hit.append(sent.refused() or b"none")
    assert sorted(hit) == sorted(expected)
    sent.confirm(sent.position)
    assert sent.refused() is None


def test_the_number_of_unconfirmed_subscriptions_is_bounded() -> None:
    sent = Unconfirmed()
    for number in range(200_000):
        sent.sent(b"%d" % number)
    assert unconfirmed(sent) <= 65_536
    assert (sent.position, sent.refused()) == (200_000, b"199999")


def test_an_error_that_no_subscription_explains_hits_none() -> None:
    router, _ = parts()
    assert not router.exceed(ServerReportedError("maximum subscriptions exceeded"))
