"""The server's INFO."""

from __future__ import annotations

import json
from typing import get_type_hints

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trio_nats._protocol.info import decode_info
from trio_nats.errors import ProtocolError
from trio_nats.server_info import ServerInfo

# As nats-server 2.11 sends it, with a cluster and an account resolver.
REAL = b"""{"server_id":"NCXMG2NUJ2ROOOF5WJUJK7BYPWVZVXY4PZ4FT6NFJ5RNHQVJGX2K5XYZ",
"server_name":"n1","version":"2.11.4","proto":1,"git_commit":"043af55","go":"go1.24.4",
"host":"0.0.0.0","port":4222,"headers":true,"auth_required":true,"tls_required":true,
"tls_verify":true,"tls_available":true,"max_payload":1048576,"jetstream":true,"client_id":7,
"client_ip":"127.0.0.1","nonce":"cE1LyqFEYDTEKTs","cluster":"C1","domain":"hub",
"connect_urls":["10.0.0.1:4222","10.0.0.2:4222"],"ws_connect_urls":["10.0.0.1:8080"],
"ldm":true,"xkey":"XDGVXMRGYEJZOEZPIGRWVMTSAWHDYR2ZXBDZ5EXQU2DBQ2FWK3QPJHWO","api_lvl":1}"""


def test_a_real_info() -> None:
    assert decode_info(REAL) == ServerInfo(
        server_id="NCXMG2NUJ2ROOOF5WJUJK7BYPWVZVXY4PZ4FT6NFJ5RNHQVJGX2K5XYZ",
        server_name="n1",
        version="2.11.4",
        proto=1,
        git_commit="043af55",
        go="go1.24.4",
        host="0.0.0.0",
        port=4222,
        headers=True,
        auth_required=True,
        tls_required=True,
        tls_verify=True,
        tls_available=True,
        max_payload=1048576,
        jetstream=True,
        client_id=7,
        client_ip="127.0.0.1",
        nonce="cE1LyqFEYDTEKTs",
        cluster="C1",
        domain="hub",
        connect_urls=("10.0.0.1:4222", "10.0.0.2:4222"),
        ws_connect_urls=("10.0.0.1:8080",),
        ldm=True,
        xkey="XDGVXMRGYEJZOEZPIGRWVMTSAWHDYR2ZXBDZ5EXQU2DBQ2FWK3QPJHWO",
        api_lvl=1,
    )


def test_nothing_is_required_of_a_server() -> None:
    info = decode_info(b"{}")
    assert info == ServerInfo()
    assert info.max_payload == 1024 * 1024
    assert info.headers is False
    assert info.auth_required is False
    assert info.nonce is None
    # None says that the server did not speak of its cluster; an empty list that it is alone.
    assert info.connect_urls is None
    assert decode_info(b'{"connect_urls":[]}').connect_urls == ()
    assert decode_info(b'{"connect_urls":null,"nonce":null}') == info


def test_it_cannot_be_changed() -> None:
    with pytest.raises(AttributeError):
        decode_info(b"{}").tls_required = True  # type: ignore[misc]


@pytest.mark.parametrize(
    ("text", "offers"),
    [
        (b"{}", False),
        (b'{"tls_required":true}', True),
        (b'{"tls_available":true}', True),
        (b'{"tls_required":true,"tls_available":true}', True),
        (b'{"tls_required":false,"tls_available":false,"tls_verify":true}', False),
    ],
)
def test_offers_tls(text: bytes, offers: bool) -> None:
    assert decode_info(text).offers_tls is offers


BAD = {
    "nothing": b"",
    "white space": b"  ",
    "unfinished": b'{"port":1',
    "two": b"{} {}",
    "array": b"[]",
    "null": b"null",
    "text": b'"INFO"',
    "not JSON": b"{port:1}",
    "string for number": b'{"port":"4222"}',
    "number for string": b'{"host":1}',
    "number for flag": b'{"tls_required":1}',
    "string for flag": b'{"tls_required":"true"}',
    "fraction": b'{"port":1.5}',
    "too large a number": b'{"port":' + b"9" * 5000 + b"}",
    "infinity": b'{"port":1e999}',
    "array of numbers": b'{"connect_urls":[1]}',
    "string for array": b'{"connect_urls":"a:1"}',
    "null in array": b'{"connect_urls":[null]}',
    "not UTF-8": b'{"host":"\xff\xfe"}',
    "half a surrogate pair": b'{"host":"\\ud800"}',
    "raw control character": b'{"host":"\x00"}',
    "byte order mark": b"\xef\xbb\xbf{}",
    "deeply nested": b'{"x":' + b"[" * 400_000 + b"]" * 400_000 + b"}",
}


@pytest.mark.parametrize("text", BAD.values(), ids=BAD.keys())
def test_what_is_not_an_info(text: bytes) -> None:
    with pytest.raises(ProtocolError, match=r"^the server's INFO is malformed: ") as e:
        decode_info(text)
    assert len(str(e.value)) < 300
    assert str(e.value).isprintable()
    assert e.value.__suppress_context__


def test_max_payload_is_not_negative() -> None:
    assert decode_info(b'{"max_payload":0}').max_payload == 0
    with pytest.raises(ProtocolError, match="a max_payload of -1"):
        decode_info(b'{"max_payload":-1}')


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=6,
)
known = st.sampled_from([*ServerInfo.__struct_fields__, "later"])


@pytest.mark.slow
@given(st.dictionaries(known, json_values, max_size=4).map(json.dumps) | st.text() | st.binary())
def test_anything_else_is_a_protocol_error(text: str | bytes) -> None:
    try:
        info = decode_info(text if isinstance(text, bytes) else text.encode("utf-8", "replace"))
    except ProtocolError as error:
        message = str(error)
    else:
        assert info.max_payload >= 0
        assert all(isinstance(url, str) for url in info.connect_urls or ())
        return
    assert len(message) < 300
    assert message.isprintable()


# --- more than a server has to say ---------------------------------------------------------------


def test_what_newer_servers_say_of_the_account() -> None:
    info = decode_info(
        b'{"api_lvl":5,"remote_account":"ACME","acc_is_sys":true,"xkey":"XDGV"}',
    )
    assert (info.api_lvl, info.remote_account, info.acc_is_sys, info.xkey) == (
        5,
        "ACME",
        True,
        "XDGV",
    )
    nothing = decode_info(b"{}")
    assert (nothing.api_lvl, nothing.remote_account, nothing.acc_is_sys, nothing.xkey) == (
        0,
        None,
        False,
        None,
    )


@pytest.mark.parametrize("field", ["connect_urls", "ws_connect_urls"])
def test_a_long_list_of_servers_is_truncated(field: str, caplog: pytest.LogCaptureFixture) -> None:
    urls = [f"10.0.{number // 250}.{number % 250}:4222" for number in range(45_000)]
    info = decode_info(json.dumps({field: urls}).encode())
    assert list(getattr(info, field)) == urls[:256]
    (record,) = caplog.records
    assert record.levelname == "WARNING"
    assert field in record.getMessage()
    assert "10.0.0.1" not in record.getMessage()


def test_text_that_is_too_long_is_not_kept(caplog: pytest.LogCaptureFixture) -> None:
    text, long = "x" * 512, "x" * 513
    texts = [name for name, kind in get_type_hints(ServerInfo).items() if "str" in str(kind)]
    lists = {"connect_urls", "ws_connect_urls"}
    assert len(texts) > 10
    for value, expected in ((text, text), (long, None)):
        said = {name: [value, "a:1"] if name in lists else value for name in texts}
        info = decode_info(json.dumps({**said, "port": 4222}).encode())
        assert info.port == 4222
        for name in texts:
            default = getattr(ServerInfo(), name)
            if name in lists:
                assert getattr(info, name) == (("a:1",) if expected is None else (text, "a:1"))
            else:
                assert getattr(info, name) == (default if expected is None else text)
    (record,) = caplog.records
    assert long not in record.getMessage()
