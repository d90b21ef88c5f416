"""Telling copies of messages apart from messages, without keeping them."""

from __future__ import annotations

import tracemalloc

import pytest

from trio_nats import Msg
from trio_nats._core.dedup import DuplicateFilter


def test_each_remembered_message_matches_one_duplicate() -> None:
    duplicates, msg, now = DuplicateFilter(2.0), Msg.new("a", b"x"), 1.0
    for count in (1, 2, 3):
        for _ in range(count):
            duplicates.remember(msg, now)
        for _ in range(count):
            assert duplicates.is_duplicate(msg, now)
        assert not duplicates.is_duplicate(msg, now)


def test_what_is_remembered_of_a_message_is_small() -> None:
    duplicates, count = DuplicateFilter(2.0), 5_000
    tracemalloc.start()
    for number in range(count):
        duplicates.remember(Msg.new("a", b"%d" % number), float(number))
    size, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert size < 200 * count


@pytest.mark.slow
def test_the_number_of_remembered_messages_is_bounded() -> None:
    duplicates = DuplicateFilter(2.0, max_messages=1_000)
    tracemalloc.start()
    for number in range(20_000):
        msg = Msg.new("a", b"%d" % number)
        duplicates.remember(msg, 1.0)
        assert duplicates.is_duplicate(msg, 1.0)
        duplicates.remember(msg, 1.0)
    size, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert size < 1_000_000
    # The last ones still have their duplicates.
    assert duplicates.is_duplicate(msg, 1.0)
