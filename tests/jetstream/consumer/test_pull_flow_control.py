"""How much is asked for, and when: against a server made of three lines."""

from __future__ import annotations

import random
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trio_nats.jetstream.consumer.pull_flow_control import (
    LARGEST_BATCH,
    MAX_REMEMBERED,
    Pull,
    PullFlowControl,
    PullRequest,
)


def ask(flow_control: PullFlowControl) -> list[Pull]:
    asked = []
    while (pull := flow_control.next_pull()) is not None:
        asked.append(pull)
    return asked


def test_the_first_pull() -> None:
    assert ask(PullFlowControl(500)) == [Pull(1, 500)]
    assert ask(PullFlowControl(1)) == [Pull(1, 1)]
    assert ask(PullFlowControl(1000, by_bytes=True)) == [Pull(1, LARGEST_BATCH, 1000)]
    assert ask(PullFlowControl(500, stop_after=20)) == [Pull(1, 20)]
    assert ask(PullFlowControl(10, largest_batch=4)) == [Pull(1, 4), Pull(2, 4)]


def test_more_is_asked_for_below_the_threshold() -> None:
    flow_control = PullFlowControl(10)
    ask(flow_control)
    assert [flow_control.taken() for _ in range(6)] == [False] * 5 + [True]
    assert ask(flow_control) == [Pull(2, 6)]
    assert flow_control.pending == 10


def test_many_single_pulls_that_fail_leave_nothing_pending() -> None:
    flow_control = PullFlowControl(500, prefetch=False)
    flow_control.wanted = 100
    pulls = []
    for wanted in range(1, 101):
        flow_control.wanted = wanted
        pulls += ask(flow_control)
    assert [pull.batch for pull in pulls] == [1] * 100
    for pull in pulls:
        flow_control.withdraw(pull.number)
    assert flow_control.pending == 0


def test_a_given_threshold() -> None:
    flow_control = PullFlowControl(10, threshold=10)
    ask(flow_control)
    assert flow_control.taken()
    assert ask(flow_control) == [Pull(2, 1)]


def test_one_at_a_time() -> None:
    flow_control = PullFlowControl(1)
    for number in range(1, 4):
        assert ask(flow_control) == [Pull(number, 1)]
        assert flow_control.taken()


def test_what_was_not_delivered_is_asked_for_again() -> None:
    flow_control = PullFlowControl(10)
    ask(flow_control)
    for _ in range(2):
        flow_control.taken()
    flow_control.ended(1, 8, 0)
    assert flow_control.pending == 0
    assert ask(flow_control) == [Pull(2, 10)]


def test_a_status_without_counts_ends_the_whole_pull() -> None:
    flow_control = PullFlowControl(10)
    ask(flow_control)
    flow_control.withdraw(1)
    assert ask(flow_control) == [Pull(2, 10)]
    # Nor does a number nobody knows, or one told twice, take anything away.
    flow_control.withdraw(1)
    flow_control.withdraw(77)
    flow_control.withdraw(0)
    assert flow_control.pending == 0 or flow_control.pending == 10


def test_a_false_pending_count() -> None:
    flow_control = PullFlowControl(10)
    ask(flow_control)
    flow_control.ended(1, 10**18, 10**18)
    assert flow_control.pending == 0


def test_a_new_generation_pulls_what_is_not_queued() -> None:
    flow_control = PullFlowControl(10)
    ask(flow_control)
    flow_control.start_generation(3, 0)
    assert ask(flow_control) == [Pull(2, 7)]
    # A late status of the first pull no longer counts.
    assert not flow_control.is_current(1)
    flow_control.ended(1, 10, 0)
    assert flow_control.held == 10
    for _ in range(2):
        flow_control.taken()
    flow_control.status_taken()
    assert flow_control.held == flow_control.pending == 7


def test_a_message_too_large_for_what_is_left_waits_for_all_the_room() -> None:
    flow_control = PullFlowControl(1000, by_bytes=True)
    ask(flow_control)
    flow_control.ended(1, LARGEST_BATCH, 400, too_large=True)
    assert flow_control.pending == 600
    flow_control.taken(300)
    assert ask(flow_control) == [Pull(2, LARGEST_BATCH, 700)]
    assert not flow_control.ended(2, 1, 200, too_large=True)
    # Less than before would be of no use.
    flow_control.start_generation(0, 0)
    assert ask(flow_control) == [Pull(3, LARGEST_BATCH, 1000)]
    assert flow_control.ended(3, 1, 1000, too_large=True)


def test_too_large_again_and_again_is_not_asked_again_and_again() -> None:
    flow_control = PullFlowControl(1000, by_bytes=True)
    ask(flow_control)
    flow_control.ended(1, 1, 600, too_large=True)
    assert flow_control.pending == 400
    assert ask(flow_control) == []
    flow_control.taken(400)
    assert ask(flow_control) == [Pull(2, LARGEST_BATCH, 1000)]


def test_the_request_says_no_more_than_it_has_to() -> None:
    assert PullRequest(batch=1).encode() == b'{"batch":1}'
    full = PullRequest(
        batch=5, expires=10**9, idle_heartbeat=5, group="g", id="x", min_pending=1, priority=2
    ).encode()
    assert full == (
        b'{"batch":5,"expires":1000000000,"idle_heartbeat":5,"group":"g","id":"x",'
        b'"min_pending":1,"priority":2}'
    )


# --- a whole life --------------------------------------------------------------------------------


@dataclass
class Server:
    """Delivers what it is asked for, in any order, and may forget everything."""

    pulls: dict[int, list[int]] = field(default_factory=dict)  # number: messages, bytes
    queue: list[tuple[str, int, int, int]] = field(default_factory=list)
    batches: dict[int, int] = field(default_factory=dict)

    def take(self, pull: Pull) -> None:
        self.pulls[pull.number] = [pull.batch, pull.max_bytes]
        self.batches[pull.number] = pull.batch

    def is_untouched(self, number: int) -> bool:
        """Whether nothing was delivered for a pull, which is recent enough to be remembered."""
        recent = number > max(self.batches) - MAX_REMEMBERED
        return recent and self.pulls[number][0] == self.batches[number]

    def deliver(self, luck: random.Random, size: int) -> None:
        if not self.pulls:
            return
        number = luck.choice(list(self.pulls))
        left = self.pulls[number]
        if size > left[1] > 0:
            self.end(number, "too large")
            return
        self.queue.append(("message", size, 0, 0))
        left[0] -= 1
        if left[1]:
            left[1] -= size
            if left[1] == 0:
                self.end(number, "completed")
                return
        if left[0] == 0:
            del self.pulls[number]

    def end(self, number: int, why: str = "timeout") -> None:
        messages, size = self.pulls.pop(number)
        self.queue.append((why, number, messages, size))

    @property
    def waiting(self) -> int:
        return len(self.queue)

    @property
    def waiting_bytes(self) -> int:
        return sum(size for kind, size, _, _ in self.queue if kind == "message")


STEP = st.sampled_from(["deliver"] * 6 + ["take"] * 6 + ["end", "refuse", "lose"])


@pytest.mark.slow
@given(
    st.integers(1, 40),
    st.data(),
    st.lists(STEP, max_size=200),
    st.integers(),
    st.none() | st.integers(1, 60),
    st.integers(0, 7),
)
def test_messages_are_bounded_and_never_stall(
    limit: int,
    data: st.DataObject,
    steps: list[str],
    seed: int,
    stop_after: int | None,
    largest_batch: int,
) -> None:
    threshold = data.draw(st.none() | st.integers(1, limit))
    flow_control = PullFlowControl(
        limit, threshold=threshold, stop_after=stop_after, largest_batch=largest_batch
    )
    live(flow_control, limit, steps, seed, by_bytes=False)


@pytest.mark.slow
@given(st.integers(10, 400), st.lists(STEP, max_size=200), st.integers())
def test_bytes_are_bounded_and_never_stall(limit: int, steps: list[str], seed: int) -> None:
    live(PullFlowControl(limit, by_bytes=True), limit, steps, seed, by_bytes=True)


def live(
    flow_control: PullFlowControl, limit: int, steps: list[str], seed: int, *, by_bytes: bool
) -> None:
    """Whatever happens: no more than the limit is under way, and there is always a next pull."""
    luck = random.Random(seed)
    server = Server()

    def refill() -> None:
        for pull in ask(flow_control):
            server.take(pull)

    def take() -> None:
        kind, one, messages, size = server.queue.pop(0)
        if kind == "message":
            flow_control.taken(one)
        else:
            flow_control.status_taken()
            flow_control.ended(one, messages, size, too_large=kind == "too large")

    refill()
    for step in steps:
        if step == "deliver":
            server.deliver(luck, luck.randint(1, 10) if by_bytes else 0)
        elif step == "take" and server.queue:
            take()
        elif step == "end" and server.pulls:
            server.end(luck.choice(list(server.pulls)))
        elif step == "refuse" and server.pulls:
            number = luck.choice(list(server.pulls))
            if server.is_untouched(number) and not by_bytes:
                del server.pulls[number]
                flow_control.withdraw(number)
        elif step == "lose":
            server.pulls.clear()
            flow_control.start_generation(server.waiting, server.waiting_bytes)
        refill()
        if by_bytes:
            asked = sum(size for _, size in server.pulls.values())
            assert asked + server.waiting_bytes <= limit
        else:
            messages = sum(kind == "message" for kind, *_ in server.queue)
            assert sum(left for left, _ in server.pulls.values()) + messages <= limit
        if flow_control.left is not None and flow_control.left <= 0:
            return
    # Once all is taken out there are pulls, so that more can come.
    while server.queue:
        take()
        refill()
        if flow_control.left is not None and flow_control.left <= 0:
            return
    assert server.pulls
