"""The stream on its own: frames in any shape, control frames, limits, endings, and cancellation."""

from __future__ import annotations

import itertools
import tracemalloc
import zlib
from collections.abc import Iterator

import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import memory_stream_pair

from tests.support.checkpoints import Operation, cancel_at_each_checkpoint
from tests.support.internals import farewell, is_torn
from tests.support.websocket import (
    BINARY,
    CLOSE,
    CONTINUATION,
    PING,
    PONG,
    TEXT,
    close_frame,
    frame,
    take_frames,
)
from tests.websocket.helpers import HANG_TIMEOUT, over
from trio_nats import ProtocolError
from trio_nats._transport.websocket import WebSocketStream

FIN = 0x80
RSV1 = 0x4


async def everything(stream: trio.abc.ReceiveStream) -> bytes:
    """What can be read without waiting; ends a test that hangs."""
    data = b""
    with trio.move_on_after(0.02):
        while more := await stream.receive_some():
            data += more
    return data


def sent(end: trio.abc.Stream) -> list[tuple[int, bytes]]:
    """The frames that have arrived at the other end of a memory stream."""
    assert isinstance(end, trio.StapledStream)
    receive = end.receive_stream
    assert isinstance(receive, trio.testing.MemoryReceiveStream)
    frames, rest = take_frames(bytes(receive._incoming._data))
    assert rest == b""
    return frames


def deflated(data: bytes) -> bytes:
    deflater = zlib.compressobj(9, zlib.DEFLATED, -15)
    return (deflater.compress(data) + deflater.flush(zlib.Z_SYNC_FLUSH))[:-4]


# --- receiving ------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 1, 125, 126, 127, 65535, 65536, 300_000])
async def test_a_message_of_any_size(size: int) -> None:
    near, far = memory_stream_pair()
    payload = bytes(range(256)) * (size // 256 + 1)
    await far.send_all(frame(BINARY, payload[:size]) + frame(BINARY, b"end"))
    got = b""
    stream = over(near)
    while len(got) < size + 3:
        got += await stream.receive_some(50_000)
    assert got == payload[:size] + b"end"


async def test_receive_some_returns_at_most_max_bytes() -> None:
    near, far = memory_stream_pair()
    stream = over(near)
    await far.send_all(frame(BINARY, b"abcdef") + frame(BINARY, b"ghi"))
    got = []
    for limit in (1, 2, 100, 100):
        got.append(await stream.receive_some(limit))
        assert len(got[-1]) <= limit
        if sum(map(len, got)) == 9:
            break
    assert b"".join(got) == b"abcdefghi"
    with pytest.raises(ValueError, match="at least 1"):
        await stream.receive_some(0)


async def test_several_messages_are_returned_at_once() -> None:
    near, far = memory_stream_pair()
    await far.send_all(b"".join(frame(BINARY, b"%d," % number) for number in range(50)))
    got = await over(near).receive_some(4096)
    assert got == b"".join(b"%d," % number for number in range(50))


async def test_a_fragmented_message_with_a_ping_in_it() -> None:
    near, far = memory_stream_pair()
    stream = over(near)
    pieces = [
        frame(BINARY, b"ab", fin=False),
        frame(PING, b"there?"),
        frame(CONTINUATION, b"", fin=False),
        frame(CONTINUATION, b"cd", fin=False),
        frame(PONG, b"unasked"),
        frame(CONTINUATION, b"ef"),
    ]
    await far.send_all(b"".join(pieces))
    assert await everything(stream) == b"abcdef"
    assert sent(far) == [(FIN | PONG, b"there?")]


class Trickle(trio.abc.Stream):
    """Gives what it was given in pieces of certain sizes, and keeps what is sent."""

    def __init__(self, data: bytes, sizes: Iterator[int]) -> None:
        self._data = data
        self._sizes = sizes
        self.sent = b""

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        await trio.lowlevel.checkpoint()
        size = min(next(self._sizes, len(self._data)), max_bytes or len(self._data))
        piece, self._data = self._data[:size], self._data[size:]
        return piece

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        await trio.lowlevel.checkpoint()
        self.sent += bytes(data)

    async def wait_send_all_might_not_block(self) -> None:
        await trio.lowlevel.checkpoint()

    async def aclose(self) -> None:
        await trio.lowlevel.checkpoint()


MESSAGES = st.lists(
    st.tuples(
        st.binary(max_size=300),
        st.booleans(),  # compressed
        st.lists(st.integers(0, 300), max_size=4),  # where it is cut into fragments
        st.booleans(),  # whether a ping is in it
    ),
    max_size=6,
)


def as_frames(payload: bytes, compressed: bool, cuts: list[int], pinged: bool) -> bytes:
    body = deflated(payload) if compressed else payload
    edges = [0, *sorted(min(cut, len(body)) for cut in cuts), len(body)]
    pieces = [body[start:end] for start, end in itertools.pairwise(edges)]
    frames = b""
    for number, piece in enumerate(pieces):
        last = number == len(pieces) - 1
        opcode = CONTINUATION if number else BINARY
        frames += frame(opcode, piece, fin=last, rsv=RSV1 if compressed and not number else 0)
        if pinged:
            frames += frame(PING, b"%d" % number)
    return frames


@pytest.mark.slow
@given(
    messages=MESSAGES,
    sizes=st.lists(st.integers(1, 50), max_size=60),
    limits=st.lists(st.integers(1, 400), min_size=1, max_size=20),
)
def test_any_frames_in_any_pieces_are_the_same_bytes(
    messages: list[tuple[bytes, bool, list[int], bool]], sizes: list[int], limits: list[int]
) -> None:
    async def main() -> None:
        wire = b"".join(as_frames(*message) for message in messages)
        transport = Trickle(wire, iter(sizes))
        stream = over(transport, compressed=True)
        got, number = b"", 0
        while data := await stream.receive_some(limits[number % len(limits)]):
            assert len(data) <= limits[number % len(limits)]
            got += data
            number += 1
        assert got == b"".join(payload for payload, *_ in messages)
        pongs, rest = take_frames(transport.sent)
        assert rest == b""
        assert {first for first, _ in pongs} <= {FIN | PONG}

    trio.run(main)


@pytest.mark.slow
@given(
    chunks=st.lists(st.binary(min_size=1, max_size=200) | st.just(b"ab" * 1500), max_size=8),
    compressed=st.booleans(),
    max_payload=st.integers(40, 3000),
)
def test_what_is_sent_is_what_the_other_side_gets(
    chunks: list[bytes], compressed: bool, max_payload: int
) -> None:
    async def main() -> None:
        transport = Trickle(b"", iter(()))
        stream = over(transport, compressed=compressed)
        stream.max_payload = lambda: max_payload
        for chunk in chunks:
            await stream.send_all(chunk)
        frames, rest = take_frames(transport.sent)
        assert rest == b""
        got = b""
        for first, payload in frames:
            assert first & ~0x40 == FIN | BINARY
            if first & 0x40:
                assert compressed
                payload = zlib.decompressobj(-15).decompress(payload + b"\x00\x00\xff\xff")
            # Together larger than the server would want to inflate at once.
            assert not compressed or len(payload) <= max_payload
            got += payload
        assert got == b"".join(chunks)
        if not compressed:
            assert len(frames) == len(chunks)

    trio.run(main)


# --- what must not be received --------------------------------------------------------------------

GARBAGE = {
    "text": (frame(TEXT, b"hello"), 1003, "text instead of binary data"),
    "reserved bit": (frame(BINARY, b"x", rsv=2), 1002, "Reserved bit"),
    "compressed, unagreed": (frame(BINARY, b"x", rsv=RSV1), 1002, "Reserved bit"),
    "unknown opcode": (frame(3, b"x"), 1002, "Invalid opcode"),
    "masked": (frame(BINARY, b"x", mask=b"abcd"), 1002, "unexpected masked frame"),
    "continuation of nothing": (frame(CONTINUATION, b"x"), 1002, "unexpected CONTINUATION"),
    "message in a message": (
        frame(BINARY, b"", fin=False) + frame(BINARY, b"y"),
        1002,
        "expected CONTINUATION",
    ),
    "fragmented ping": (frame(PING, b"x", fin=False), 1002, "fragment control frame"),
    "long ping": (frame(PING, b"x" * 126), 1002, "Control frame with payload len > 125"),
    "needlessly long": (b"\x82\x7e\x00\x05hello", 1002, "2 bytes when 1 would have"),
    "negative length": (b"\x82\x7f" + b"\xff" * 8, 1002, "MSB"),
    "noise": (bytes(range(255, 0, -1)), 1002, ""),
}


@pytest.mark.parametrize("case", GARBAGE)
async def test_garbage_is_rejected_with_an_explanation(case: str) -> None:
    wire, code, complaint = GARBAGE[case]
    near, far = memory_stream_pair()
    stream = over(near)
    await far.send_all(frame(BINARY, b"before") + wire + frame(BINARY, b"after"))
    with trio.fail_after(HANG_TIMEOUT):
        assert await stream.receive_some() == b"before"
        for _ in range(2):
            with pytest.raises(ProtocolError) as caught:
                await stream.receive_some()
    assert str(caught.value).startswith("ws://server:80 broke the WebSocket protocol: ")
    assert complaint in str(caught.value)
    assert sent(far) == [(FIN | CLOSE, code.to_bytes(2, "big"))]
    with pytest.raises(trio.BrokenResourceError):
        await stream.send_all(b"x")


COMPRESSED_GARBAGE = {
    "noise": (frame(BINARY, b"\xff" * 20, rsv=RSV1), 1007, "cannot be inflated"),
    "ping": (frame(PING, b"", rsv=RSV1), 1002, "error in extension"),
    "continuation": (
        frame(BINARY, deflated(b"x"), rsv=RSV1, fin=False) + frame(CONTINUATION, rsv=RSV1),
        1002,
        "error in extension",
    ),
    "text": (frame(TEXT, b"hello", rsv=0), 1003, "text"),
}


@pytest.mark.parametrize("case", COMPRESSED_GARBAGE)
async def test_compressed_garbage(case: str) -> None:
    wire, code, complaint = COMPRESSED_GARBAGE[case]
    near, far = memory_stream_pair()
    stream = over(near, compressed=True)
    await far.send_all(wire)
    with trio.fail_after(HANG_TIMEOUT), pytest.raises(ProtocolError, match=complaint):
        while await stream.receive_some():
            pass
    assert sent(far) == [(FIN | CLOSE, code.to_bytes(2, "big"))]


async def test_a_huge_frame_takes_no_memory() -> None:
    """What claims to be an exabyte is handed out as it comes, and bounded by its reader."""
    near, far = memory_stream_pair()
    stream = over(near)
    await far.send_all(frame(BINARY, b"", length=2**60))
    tracemalloc.start()
    try:
        for _ in range(200):
            await far.send_all(b"x" * 50_000)
            assert await stream.receive_some() == b"x" * 50_000
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 1_000_000


@pytest.mark.slow
@pytest.mark.parametrize("fragments", [1, 7])
async def test_a_decompression_bomb_takes_no_memory(fragments: int) -> None:
    size = 10_000_000
    bomb = deflated(bytes(size))
    assert len(bomb) < size / 900
    step = len(bomb) // fragments + 1
    wire = b"".join(
        frame(
            CONTINUATION if start else BINARY,
            bomb[start : start + step],
            fin=start + step >= len(bomb),
            rsv=0 if start else RSV1,
        )
        for start in range(0, len(bomb), step)
    )
    near, far = memory_stream_pair()
    stream = over(near, compressed=True)
    await far.send_all(wire + frame(BINARY, b"after"))
    got = 0
    tracemalloc.start()
    try:
        while got < size + 5:
            data = await stream.receive_some()
            assert len(data) <= 65536
            got += len(data)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert got == size + 5
    assert peak < 1_000_000


async def test_many_blocks_marked_as_the_last() -> None:
    """Deflate's own end mark may stand in a message; what comes behind it counts as well."""
    final = zlib.compressobj(9, zlib.DEFLATED, -15)
    block = final.compress(b"ab") + final.flush(zlib.Z_FINISH)
    near, far = memory_stream_pair()
    stream = over(near, compressed=True)
    await far.send_all(frame(BINARY, block * 100 + b"\x00", rsv=RSV1) + frame(BINARY, b"end"))
    got = b""
    while not got.endswith(b"end"):
        got += await stream.receive_some(7)
    assert got == b"ab" * 100 + b"end"


async def test_a_server_that_refers_to_earlier_messages() -> None:
    """It was asked not to, but may not have promised."""
    near, far = memory_stream_pair()
    stream = over(near, compressed=True, agreed="server_max_window_bits=10")
    deflater = zlib.compressobj(9, zlib.DEFLATED, -15)
    for _ in range(3):
        body = deflater.compress(b"the same words") + deflater.flush(zlib.Z_SYNC_FLUSH)
        await far.send_all(frame(BINARY, body[:-4], rsv=RSV1))
        assert await stream.receive_some() == b"the same words"


# --- pings ----------------------------------------------------------------------------------------


@pytest.mark.slow
async def test_a_flood_of_pings_is_answered_occasionally() -> None:
    """To the last of those that came together, which answers all of them."""
    near, far = memory_stream_pair()
    stream = over(near)
    await far.send_all(b"".join(frame(PING, b"%d" % number) for number in range(5000)))
    await far.send_all(frame(BINARY, b"x"))
    with trio.fail_after(HANG_TIMEOUT):
        assert await stream.receive_some() == b"x"
    answers = sent(far)
    assert 0 < len(answers) < 10
    assert answers[-1] == (FIN | PONG, b"4999")


class Gate(trio.abc.Stream):
    """A transport whose writes stop in their middle until told to go on."""

    def __init__(self, transport: trio.abc.Stream) -> None:
        self._transport = transport
        self.open = trio.Event()
        self.stopped = trio.Event()

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        half = len(data) // 2
        await self._transport.send_all(bytes(data)[:half])
        self.stopped.set()
        await self.open.wait()
        await self._transport.send_all(bytes(data)[half:])

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        return bytes(await self._transport.receive_some(max_bytes))

    async def wait_send_all_might_not_block(self) -> None:
        await self._transport.wait_send_all_might_not_block()

    async def aclose(self) -> None:
        await self._transport.aclose()


async def test_a_pong_is_not_written_into_a_frame() -> None:
    near, far = memory_stream_pair()
    gate = Gate(near)
    stream = over(gate)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(stream.send_all, b"a whole frame")
        await gate.stopped.wait()
        await far.send_all(frame(PING, b"?") + frame(BINARY, b"x"))
        # The receiver neither waits for the sender nor writes into its frame.
        with trio.fail_after(HANG_TIMEOUT):
            assert await stream.receive_some() == b"x"
        gate.open.set()
    assert sent(far) == [(FIN | BINARY, b"a whole frame"), (FIN | PONG, b"?")]


async def test_a_frame_is_not_written_into_a_pong() -> None:
    near, far = memory_stream_pair()
    gate = Gate(near)
    stream = over(gate)
    await far.send_all(frame(PING, b"?") + frame(BINARY, b"x"))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(stream.receive_some)
        await gate.stopped.wait()
        nursery.start_soon(stream.send_all, b"a whole frame")
        await trio.testing.wait_all_tasks_blocked()
        gate.open.set()
    assert sent(far) == [(FIN | PONG, b"?"), (FIN | BINARY, b"a whole frame")]


async def test_data_after_a_ping_is_read_although_the_pong_cannot_be_sent() -> None:
    near, far = memory_stream_pair()
    stream = over(near)
    await far.send_all(frame(PING) + frame(BINARY, b"-ERR 'why'\r\n"))
    assert isinstance(far, trio.StapledStream)
    await far.receive_stream.aclose()
    assert await stream.receive_some() == b"-ERR 'why'\r\n"
    with pytest.raises(trio.BrokenResourceError):
        await stream.send_all(b"x")


# --- endings --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("said", "words"),
    [
        (close_frame(), "1005 (no status rcvd)"),
        (close_frame(1000), "1000 (normal closure)"),
        (close_frame(1008, "Authentication Failure"), "1008 (policy violation): 'Authentication F"),
        (close_frame(1001, "a\nb\x1b[2J"), "1001 (going away): 'a?b?[2J'"),
        (close_frame(4711, "x" * 123), "4711: 'xxx"),
        (close_frame(1006, "Stale Connection"), "(remote CLOSE with local-only reason)"),
        (close_frame(1015), "(remote CLOSE with local-only reason)"),
        (frame(CLOSE, b"\x03"), "(CLOSE with 1 byte payload)"),
        (frame(CLOSE, b"\x03\xe8\xff"), "CLOSE reason"),
    ],
)
async def test_the_servers_close_is_returned_and_told(said: bytes, words: str) -> None:
    near, far = memory_stream_pair()
    stream = over(near)
    await far.send_all(frame(BINARY, b"last words") + said + frame(BINARY, b"ignored"))
    assert await stream.receive_some() == b"last words"
    for _ in range(2):
        with pytest.raises(trio.BrokenResourceError) as caught:
            await stream.receive_some()
        assert str(caught.value.__cause__).startswith("the server closed the WebSocket")
        assert words in str(caught.value.__cause__)
        assert str(caught.value.__cause__).isprintable()
    ((first, _),) = sent(far)
    assert first == FIN | CLOSE
    with pytest.raises(trio.BrokenResourceError):
        await stream.send_all(b"x")
    await stream.aclose()
    assert len(sent(far)) == 1


async def test_a_connection_that_ends_within_a_message() -> None:
    near, far = memory_stream_pair()
    stream = over(near)
    assert isinstance(far, trio.StapledStream)
    await far.send_all(frame(BINARY, b"half of it", length=20))
    await far.send_eof()
    assert await stream.receive_some() == b"half of it"
    for _ in range(2):
        assert await stream.receive_some() == b""


async def test_closing_sends_a_close_frame() -> None:
    for forcefully in (False, True):
        near, far = memory_stream_pair()
        stream = over(near)
        await stream.send_all(b"x")
        if forcefully:
            await trio.aclose_forcefully(stream)
        else:
            await stream.aclose()
        await stream.aclose()
        assert sent(far) == [(FIN | BINARY, b"x"), (FIN | CLOSE, b"\x03\xe8")]
        with pytest.raises(trio.ClosedResourceError):
            await stream.receive_some()
        with pytest.raises(trio.ClosedResourceError):
            await stream.send_all(b"x")
        await far.receive_some()
        assert await far.receive_some() == b""


async def test_closing_does_not_wait_for_a_peer_that_does_not_read(
    autojump_clock: trio.abc.Clock,
) -> None:
    near, far = trio.testing.lockstep_stream_pair()
    stream = over(near)
    begun = trio.current_time()

    async def write() -> None:
        with pytest.raises(trio.ClosedResourceError):
            await stream.send_all(b"nobody reads this")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(write)
        await trio.testing.wait_all_tasks_blocked()
        # In the middle of a frame there is no place for a goodbye.
        await stream.aclose()
        assert trio.current_time() == begun
    near, far = trio.testing.lockstep_stream_pair()
    stream = over(near)
    with trio.CancelScope() as scope:
        scope.cancel()
        await stream.aclose()
    assert trio.current_time() - begun <= farewell()
    with pytest.raises(trio.BrokenResourceError):
        await far.send_all(b"x")


# --- cancellation ---------------------------------------------------------------------------------


async def test_a_cancelled_receive_loses_nothing() -> None:
    stream: WebSocketStream
    expected = b"".join(b"<%d>" % number + b"." * 100 for number in range(3))
    got = b""

    async def make() -> Operation:
        nonlocal stream, got
        near, far = memory_stream_pair()
        stream, got = over(near, compressed=True), b""
        for number in range(3):
            data = deflated(expected[number * 103 :][:103])
            await far.send_all(frame(PING, b"%d" % number) + frame(BINARY, data, rsv=RSV1))

        async def operation() -> None:
            nonlocal got
            while len(got) < len(expected):
                got += await stream.receive_some(90)

        return operation

    async def check() -> None:
        nonlocal got
        with trio.fail_after(HANG_TIMEOUT):
            while len(got) < len(expected):
                got += await stream.receive_some()
        assert got == expected

    assert await cancel_at_each_checkpoint(make, check) >= 4


async def test_what_a_cancelled_receive_kept_may_be_read_in_smaller_pieces() -> None:
    near, far = memory_stream_pair()
    stream = over(Gate(near))
    await far.send_all(frame(BINARY, b"abc") + frame(PING))
    with trio.move_on_after(0.01) as scope:
        await stream.receive_some()
    assert scope.cancelled_caught  # while answering the ping
    with trio.fail_after(HANG_TIMEOUT):
        assert [await stream.receive_some(limit) for limit in (1, 1, 5)] == [b"a", b"b", b"c"]


async def test_a_cancelled_send_leaves_nothing_that_looks_whole() -> None:
    """Frames on the wire are whole, up to one at the end; behind that nothing is ever sent."""
    stream: WebSocketStream
    far: trio.abc.Stream

    async def make() -> Operation:
        nonlocal stream, far
        near, far = memory_stream_pair()
        gate = Gate(near)
        gate.open.set()
        stream = over(gate)

        async def operation() -> None:
            for number in range(3):
                await stream.send_all(b"%d" % number * 200)

        return operation

    async def check() -> None:
        torn = is_torn(stream)
        if torn:
            with pytest.raises(trio.BrokenResourceError):
                await stream.send_all(b"x")
        await trio.aclose_forcefully(stream)
        data = await everything(far)
        frames, rest = take_frames(data)
        assert [payload for first, payload in frames if first == FIN | BINARY] == [
            b"%d" % number * 200 for number in range(len(frames) - (not torn))
        ]
        # A goodbye behind whole frames only.
        assert torn or (rest == b"" and frames[-1] == (FIN | CLOSE, b"\x03\xe8"))

    assert await cancel_at_each_checkpoint(make, check) >= 3


async def test_a_send_that_is_cancelled_before_its_turn_leaves_no_gap() -> None:
    near, far = memory_stream_pair()
    gate = Gate(near)
    stream = over(gate)
    await far.send_all(frame(PING, b"?") + frame(BINARY, b"x"))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(stream.receive_some)
        await gate.stopped.wait()
        with trio.CancelScope() as scope:
            scope.cancel()
            await stream.send_all(b"never sent")
        gate.open.set()
    with pytest.raises(trio.BrokenResourceError):
        await stream.send_all(b"what depends on it")
    assert sent(far) == [(FIN | PONG, b"?")]


async def test_everything_is_a_checkpoint() -> None:
    near, far = memory_stream_pair()
    stream = over(near)
    await far.send_all(frame(BINARY, b"ab"))
    with trio.testing.assert_checkpoints():
        await stream.receive_some(1)
    with trio.testing.assert_checkpoints():
        await stream.receive_some(1)
    for data in (b"", b"x", bytearray(b"x"), memoryview(b"xyz")[1:]):
        with trio.testing.assert_checkpoints():
            await stream.send_all(data)
    with trio.testing.assert_checkpoints():
        await stream.wait_send_all_might_not_block()
    await far.send_all(close_frame())
    for _ in range(2):
        with trio.testing.assert_checkpoints(), pytest.raises(trio.BrokenResourceError):
            await stream.receive_some(1)
    for _ in range(2):
        with trio.testing.assert_checkpoints():
            await stream.aclose()
