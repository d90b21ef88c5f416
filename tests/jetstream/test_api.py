"""Asking, and what comes back: errors by their number, nonsense, nothing, and pages."""

from __future__ import annotations

import msgspec
import pytest
import trio
import trio.testing

from tests.jetstream.helpers import HANG_TIMEOUT, connected, error, fake_api
from tests.support.checkpoints import Operation, cancel_at_each_checkpoint
from trio_nats import (
    ConfigurationError,
    InvalidSubjectError,
    RequestTimeoutError,
    open_nats,
)
from trio_nats import jetstream as js_module
from trio_nats._constructors import construct
from trio_nats.errors import fresh
from trio_nats.jetstream import (
    APILevelError,
    ConsumerNameInUseError,
    ConsumerNotFoundError,
    ErrorCode,
    JetStreamAPIError,
    JetStreamError,
    JetStreamNotEnabledError,
    JetStreamNotEnabledForAccountError,
    MessageNotFoundError,
    NoStreamResponseError,
    StreamMismatchError,
    StreamNameInUseError,
    StreamNotFoundError,
    UnacknowledgedError,
    WrongLastMsgIdError,
    WrongLastSequenceError,
)
from trio_nats.jetstream import errors as all_errors
from trio_nats.jetstream.api import PageIterator
from trio_nats.testing import NatsServer


@pytest.mark.slow
@pytest.mark.parametrize(
    ("err_code", "kind"),
    [
        (10013, ConsumerNameInUseError),
        (10014, ConsumerNotFoundError),
        (10037, MessageNotFoundError),
        (10039, JetStreamNotEnabledForAccountError),
        (10058, StreamNameInUseError),
        (10059, StreamNotFoundError),
        (10060, StreamMismatchError),
        (10070, WrongLastMsgIdError),
        (10071, WrongLastSequenceError),
        (10076, JetStreamNotEnabledError),
        (10148, ConsumerNameInUseError),
        (10149, ConsumerNotFoundError),
        (10164, WrongLastSequenceError),
        (10185, APILevelError),
        (10000, JetStreamAPIError),
    ],
)
async def test_errors_by_their_number(nats_server: NatsServer, err_code, kind) -> None:
    async with open_nats(nats_server.url) as nc:
        js = nc.jetstream(prefix="fake")
        async with fake_api(nc, lambda msg: error(err_code, 418, "told so")):
            with pytest.raises(JetStreamAPIError) as caught:
                await js.account_info()
    assert type(caught.value) is kind
    assert (caught.value.code, caught.value.err_code) == (418, err_code)
    assert str(caught.value) == f"told so (code 418, err_code {err_code})"
    assert str(fresh(caught.value)) == str(caught.value)


def test_error_codes_are_numbers() -> None:
    error = JetStreamAPIError(400, 10109, "invalid operation on sealed stream")
    assert error.err_code == ErrorCode.STREAM_SEALED
    sealed = JetStreamAPIError(400, ErrorCode.STREAM_SEALED, "invalid operation on sealed stream")
    assert str(sealed) == str(error)


def test_the_last_sequence() -> None:
    assert WrongLastSequenceError(400, 10071, "wrong last sequence: 17").last_sequence == 17
    assert WrongLastSequenceError(400, 10164, "wrong last sequence").last_sequence is None


@pytest.mark.parametrize(
    "instance", [NoStreamResponseError("x"), UnacknowledgedError(2, [ValueError("x")])]
)
def test_errors_can_be_raised_again(instance: Exception) -> None:
    """In another task, as a twin."""
    twin = fresh(instance)
    assert type(twin) is type(instance)
    assert str(twin) == str(instance)
    assert twin.args == instance.args


def test_the_package_exports_all_errors_of_the_errors_module() -> None:
    for name in all_errors.__all__:
        assert getattr(js_module, name) is getattr(all_errors, name)
        assert name in js_module.__all__


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"+OK",
        b"[]",
        b"[" * 100_000,
        b"\xff",
        b'{"error": "no"}',
        b'{"error": {"code": "x", "err_code": [], "description": 7}}',
        b'{"memory": "much"}',
        b'{"memory": NaN}',
    ],
)
async def test_invalid_responses(nats_server: NatsServer, answer: bytes) -> None:
    async with open_nats(nats_server.url) as nc:
        async with fake_api(nc, lambda msg: answer):
            with pytest.raises(JetStreamError) as caught:
                await nc.jetstream(prefix="fake").account_info()
        assert isinstance(caught.value, JetStreamAPIError) == answer.startswith(b'{"error"')


async def test_a_very_long_description_is_truncated(nats_server: NatsServer) -> None:
    async with open_nats(nats_server.url) as nc:
        async with fake_api(nc, lambda msg: error(1, description="x" * 100_000)):
            with pytest.raises(JetStreamAPIError) as caught:
                await nc.jetstream(prefix="fake").account_info()
        assert len(str(caught.value)) < 3_000


async def test_no_answer(nats_server: NatsServer) -> None:
    async with open_nats(nats_server.url) as nc, fake_api(nc, lambda msg: None) as asked:
        with pytest.raises(RequestTimeoutError):
            await nc.jetstream(prefix="fake", timeout=0.01).account_info()
        await nc.flush()  # It was sent, however late it comes.
        await trio.testing.wait_all_tasks_blocked()
        assert asked == [("INFO", None)]


async def test_a_server_without_jetstream(nats_server: NatsServer) -> None:
    async with open_nats(nats_server.url) as nc:
        with pytest.raises(JetStreamNotEnabledError, match=r"nobody answers on '\$JS.API.INFO'"):
            await nc.jetstream().account_info()


@pytest.mark.nats_server(
    jetstream=True,
    config={
        "accounts": {
            "WITH": {"jetstream": True, "users": [{"user": "with", "password": "x"}]},
            "WITHOUT": {"users": [{"user": "without", "password": "x"}]},
        }
    },
)
async def test_an_account_without_jetstream(nats_server: NatsServer) -> None:
    url = nats_server.url.replace("//", "//{}:x@")
    async with open_nats(url.format("with")) as nc:
        assert (await nc.jetstream().account_info()).streams == 0
    async with open_nats(url.format("without")) as nc:
        with pytest.raises(JetStreamNotEnabledForAccountError):
            await nc.jetstream().account_info()


@pytest.mark.nats_server(jetstream=True, config={"jetstream": {"domain": "hub"}})
async def test_a_domain(nats_server: NatsServer) -> None:
    async with connected(nats_server) as (_, nc):
        js = nc.jetstream(domain="hub")
        assert js.prefix == "$JS.hub.API"
        assert (await js.account_info()).domain == "hub"
        stream = await js.create_stream("S", subjects=["s"])
        assert stream.info.domain == ""
        assert (await js.publish("s")).domain == "hub"
        with pytest.raises(JetStreamNotEnabledError, match=r"\$JS\.other\.API"):
            await nc.jetstream(domain="other").account_info()


@pytest.mark.parametrize(
    ("options", "kind", "text"),
    [
        ({"domain": "a", "prefix": "b"}, ConfigurationError, "not both"),
        ({"domain": "a.b"}, ConfigurationError, "domain name 'a.b' is not allowed"),
        ({"domain": ""}, ConfigurationError, "domain name '' is not allowed"),
        ({"prefix": "a."}, InvalidSubjectError, "prefix: "),
        ({"prefix": "a.*"}, InvalidSubjectError, "prefix: "),
        ({"timeout": 0}, ConfigurationError, "timeout"),
    ],
)
async def test_invalid_api_options(nats_server: NatsServer, options, kind, text) -> None:
    async with open_nats(nats_server.url) as nc:
        with pytest.raises(kind, match=text):
            nc.jetstream(**options)


async def test_the_required_api_level_is_sent(nats_server: NatsServer) -> None:
    """As a header, which servers since 2.12 understand."""
    async with open_nats(nats_server.url) as nc:
        levels: list[str | None] = []

        def answer(msg):
            if msg.subject == "fake.INFO":
                return {"api": {"level": 2}}
            levels.append(msg.headers.get("Nats-Required-Api-Level"))
            return error(10185, 412)

        js = nc.jetstream(prefix="fake")
        async with fake_api(nc, answer) as asked:
            for options in ({}, {"allow_msg_ttl": True}, {"allow_atomic": True}):
                with pytest.raises(APILevelError):
                    await js.create_stream("S", **options)
        assert levels == [None, "1", "2"]
        assert [suffix for suffix, _ in asked].count("INFO") == 1


# --- pages ---------------------------------------------------------------------------------------


def pages_of(names: list[str], size: int):
    def answer(msg):
        offset = offset_in(msg)
        return {
            "total": len(names),
            "offset": offset,
            "limit": size,
            "streams": names[offset : offset + size],
        }

    return answer


def offset_in(msg) -> int:
    offset = msgspec.json.decode(msg.data).get("offset", 0)
    assert isinstance(offset, int)
    return offset


@pytest.mark.parametrize("count", [0, 1, 2, 3, 4, 5])
async def test_pages(nats_server: NatsServer, count: int) -> None:
    names = [f"S{number}" for number in range(count)]
    async with open_nats(nats_server.url) as nc:
        async with fake_api(nc, pages_of(names, 2)) as asked:
            found = nc.jetstream(prefix="fake").stream_names()
            assert [name async for name in found] == names
            assert [name async for name in found] == []
        offsets = [payload.get("offset", 0) for _, payload in asked]
        assert offsets == [0, 2, 4][: max(1, (count + 1) // 2)]


async def test_a_total_that_is_never_reached(nats_server: NatsServer) -> None:
    """An empty page is the end."""
    async with open_nats(nats_server.url) as nc:
        answer = {"total": 10**18, "streams": None}
        async with fake_api(nc, lambda msg: answer) as asked:
            assert [name async for name in nc.jetstream(prefix="fake").stream_names()] == []
        assert len(asked) == 1


async def test_pages_without_end() -> None:
    pages = 0

    async def ask() -> tuple[list[str], bool]:
        nonlocal pages
        pages += 1
        return [], True

    with pytest.raises(JetStreamError, match="at most 100,000 pages"):
        await anext(construct(PageIterator, ask))
    assert pages == 100_000


async def test_a_listing_can_continue_after_an_error(nats_server: NatsServer) -> None:
    async with open_nats(nats_server.url) as nc:
        good = pages_of(["a", "b", "c"], 2)
        fail = [False, True, False]
        async with fake_api(nc, lambda msg: error(10008, 503) if fail.pop(0) else good(msg)):
            names = nc.jetstream(prefix="fake").stream_names()
            assert [await anext(names), await anext(names)] == ["a", "b"]
            with pytest.raises(JetStreamAPIError):
                await anext(names)
            assert await anext(names) == "c"


async def test_pages_cancelled_at_each_checkpoint(nats_server: NatsServer) -> None:
    """Nothing is missed and nothing comes twice, whenever one stops and goes on."""
    names = [f"S{number}" for number in range(5)]
    async with open_nats(nats_server.url) as nc, fake_api(nc, pages_of(names, 2)):
        found: list[str] = []

        async def make() -> Operation:
            paged = nc.jetstream(prefix="fake").stream_names()
            found.clear()
            state["paged"] = paged

            async def operation() -> None:
                async for name in paged:
                    found.append(name)  # noqa: PERF401 -- what was found before it is cancelled

            return operation

        async def check() -> None:
            with trio.fail_after(HANG_TIMEOUT):
                found.extend([name async for name in state["paged"]])
            assert found == names

        state: dict = {}
        assert await cancel_at_each_checkpoint(make, check) >= 5
