"""Names of buckets, keys and filters of keys, and nothing sent for those that are none."""

from __future__ import annotations

import itertools
import json
import re
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trio_nats import ConfigurationError, open_nats
from trio_nats.jetstream.validation import overlap
from trio_nats.keyvalue import InvalidKeyError
from trio_nats.keyvalue.validation import check_bucket, check_filters, check_key
from trio_nats.testing import NatsServer

TOKENS = st.text("azAZ09-_=/", min_size=1, max_size=5)
KEYS = st.lists(TOKENS, min_size=1, max_size=5).map(".".join)
ANYTHING = st.text(st.sampled_from("aZ9-_=/.*> \n\tü$\\\0"), max_size=6)


def allowed(text: str) -> bool:
    """As ADR-8 says it."""
    return bool(
        re.fullmatch(r"[-/_=.a-zA-Z0-9]+", text)
        and not text.startswith(".")
        and not text.endswith(".")
        and ".." not in text
    )


@pytest.mark.slow
@given(KEYS)
def test_keys(key: str) -> None:
    assert check_key(key) == key
    assert check_filters(key) == (key,)
    assert check_filters([key, f"{key}.>", f"*.{key}"]) == (key, f"{key}.>", f"*.{key}")


@given(ANYTHING)
def test_any_text_is_a_valid_key_or_an_error(text: str) -> None:
    if allowed(text):
        assert check_key(text) == text
    else:
        with pytest.raises(InvalidKeyError, match="key"):
            check_key(text)


@given(ANYTHING)
def test_any_filter(text: str) -> None:
    """A filter is a key with some of its parts replaced."""
    plain = [token if token != "*" else "x" for token in text.split(".")]
    if plain[-1] == ">":
        plain[-1] = "x"
    if allowed(".".join(plain)):
        assert check_filters(text) == (text,)
    else:
        with pytest.raises(InvalidKeyError):
            check_filters(text)


@pytest.mark.parametrize("bucket", ["", "a.b", "a b", "ü", "a*", "x" * 253, "a\n"])
def test_buckets(bucket: str) -> None:
    with pytest.raises(ConfigurationError, match="bucket name"):
        check_bucket(bucket)
    assert check_bucket("a-B_9") == "a-B_9"


def test_other_types() -> None:
    other = cast("Any", 5)
    with pytest.raises(TypeError, match="must be a str, not int"):
        check_bucket(other)
    with pytest.raises(TypeError, match="must be a str, not int"):
        check_key(other)
    with pytest.raises(TypeError, match="must be a str, not int"):
        check_filters([other])
    with pytest.raises(InvalidKeyError, match="keys must not be empty"):
        check_filters([])


@pytest.mark.parametrize(
    ("narrow", "wide"),
    [("a", "a"), ("a", ">"), ("a.b", "a.*"), ("a.*", "a.>"), ("a.>", ">"), ("a.>", "*.>")],
)
def test_filters_that_overlap(narrow: str, wide: str) -> None:
    with pytest.raises(InvalidKeyError, match="key filters must not overlap") as caught:
        check_filters([narrow, wide, "x.y"])
    assert repr(narrow) in str(caught.value)
    assert repr(wide) in str(caught.value)


@pytest.mark.requires_server("2.12")
@pytest.mark.nats_server(jetstream=True)
async def test_the_server_agrees_on_what_overlaps(nats_server: NatsServer) -> None:
    """What is not refused here is not refused there, and the other way round."""
    some = ["a", "b", "a.b", "a.*", "*.b", "a.>", ">", "*", "*.*", "a.b.>", "*.>", "a.*.c"]
    async with open_nats(nats_server.url) as nc:
        js = nc.jetstream()
        await js.create_stream("S", subjects=["a.>", "a", "b"])
        for one, other in itertools.product(some, some):
            request = {"config": {"filter_subjects": [one, other]}, "stream_name": "S"}
            reply = await nc.request("$JS.API.CONSUMER.CREATE.S", json.dumps(request))
            refused = json.loads(reply.data).get("error", {}).get("err_code") == 10138
            assert refused == (overlap([one, other]) is not None), (one, other)


@pytest.mark.parametrize("keys", [5, None])
def test_filters_of_another_type(keys: Any) -> None:
    with pytest.raises(TypeError, match="keys must be a str or a list of str, not "):
        check_filters(keys)
