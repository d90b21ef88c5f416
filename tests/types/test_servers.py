"""Server addresses: what is understood, what is refused, and that credentials are never shown."""

from __future__ import annotations

from dataclasses import FrozenInstanceError, replace
from urllib.parse import quote

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from trio_nats.errors import ConfigurationError
from trio_nats.servers import (
    Server,
    is_ip_address,
    is_loopback,
    parse_server,
    parse_servers,
)

# --- what is understood --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "server"),
    [
        ("localhost", Server("nats", "localhost", 4222)),
        ("localhost:4333", Server("nats", "localhost", 4333)),
        ("nats://localhost", Server("nats", "localhost", 4222)),
        ("nats://localhost/", Server("nats", "localhost", 4222)),
        ("tls://h", Server("tls", "h", 4222)),
        ("tls://h:1", Server("tls", "h", 1)),
        ("ws://h", Server("ws", "h", 80)),
        ("wss://h", Server("wss", "h", 443)),
        ("ws://h:65535", Server("ws", "h", 65535)),
        ("NATS://Host", Server("nats", "Host", 4222)),
        ("Tls://h", Server("tls", "h", 4222)),
        ("nats://127.0.0.1:4222", Server("nats", "127.0.0.1", 4222)),
        ("nats://[::1]", Server("nats", "::1", 4222)),
        ("[::1]:5", Server("nats", "::1", 5)),
        ("tls://[fe80::1%eth0]:5", Server("tls", "fe80::1%eth0", 5)),
        ("tls://[fe80::1%25eth0]:5", Server("tls", "fe80::1%eth0", 5)),
        ("nats://gr\u00fcn.example", Server("nats", "gr\u00fcn.example", 4222)),
        ("nats://h:04222", Server("nats", "h", 4222)),
        ("nats://u:p@h", Server("nats", "h", 4222, "u", "p")),
        ("u:p@h:1", Server("nats", "h", 1, "u", "p")),
        ("nats://u:@h", Server("nats", "h", 4222, "u", "")),
        ("nats://t@h", Server("nats", "h", 4222, token="t")),
        ("t@[::1]:1", Server("nats", "::1", 1, token="t")),
        ("nats://u:p:q@h", Server("nats", "h", 4222, "u", "p:q")),
        ("nats://a%40b:%2Fp%3a%2C%25@h", Server("nats", "h", 4222, "a@b", "/p:,%")),
        ("nats://%74%C3%BC@h", Server("nats", "h", 4222, token="t\u00fc")),
        ("nats://u+v:p+q@h", Server("nats", "h", 4222, "u+v", "p+q")),
        ("nats://u:p@ss@h", Server("nats", "h", 4222, "u", "p@ss")),
        ("nats://u:p/q?r#s@h:1", Server("nats", "h", 1, "u", "p/q?r#s")),
        ("ws://h/path", Server("ws", "h", 80, path="/path")),
        ("ws://h:8080/a/b?c=d#e", Server("ws", "h", 8080, path="/a/b?c=d")),
        ("wss://u:p@h/", Server("wss", "h", 443, "u", "p", path="/")),
        ("ws://[::1]/p", Server("ws", "::1", 80, path="/p")),
    ],
)
def test_understood(text: str, server: Server) -> None:
    assert parse_server(text) == server
    assert parse_servers(text) == (server,)


@pytest.mark.parametrize(
    "servers",
    [
        "nats://a:1,nats://b:2,c:3",
        "nats://a:1, nats://b:2 ,\tc:3\n",
        " nats://a:1 ,, nats://b:2, ,c:3,",
        ["nats://a:1", "nats://b:2", "c:3"],
        ("a:1", "b:2,c:3"),
        [" nats://a:1 ", "", "b:2", "c:3"],
        "a:1,b:2,a:1,NATS://b:2,nats://c:3",
        ["a:1", "b:2,a:1", "nats://c:3"],
    ],
)
def test_lists_in_order_without_duplicates(servers: str | list[str]) -> None:
    assert [server.url for server in parse_servers(servers)] == [
        "nats://a:1",
        "nats://b:2",
        "nats://c:3",
    ]


def test_default_ports_count_for_duplicates() -> None:
    assert len(parse_servers("h,nats://h:4222,nats://h/")) == 1
    assert len(parse_servers("nats://h,tls://h")) == 2
    assert len(parse_servers("nats://a@h,nats://b@h,h")) == 3


def test_plain_and_tls_may_be_mixed_and_so_may_the_websocket_ones() -> None:
    assert [s.scheme for s in parse_servers("nats://a,tls://b")] == ["nats", "tls"]
    assert [s.scheme for s in parse_servers("ws://a,wss://b")] == ["ws", "wss"]


@pytest.mark.parametrize("host", ["localhost", "a.b.c", "127.0.0.1"])
def test_the_properties_of_a_server(host: str) -> None:
    server = parse_server(f"tls://u:p@{host}:1")
    assert server.url == str(server) == f"tls://{host}:1"
    assert server.address == f"{host}:1"
    assert server.is_websocket is False
    assert server.has_userinfo is True
    assert server.discovered is False
    assert server.tls_name is None


def test_an_ipv6_address_is_shown_in_brackets() -> None:
    server = parse_server("nats://[::1]:1")
    assert server.host == "::1"
    assert server.address == "[::1]:1"
    assert str(server) == "nats://[::1]:1"
    assert parse_server(str(server)) == server


@pytest.mark.parametrize(
    ("text", "websocket", "userinfo"),
    [
        ("nats://h", False, False),
        ("tls://u:@h", False, True),
        ("ws://t@h", True, True),
        ("wss://h", True, False),
    ],
)
def test_kinds(text: str, websocket: bool, userinfo: bool) -> None:
    server = parse_server(text)
    assert server.is_websocket is websocket
    assert server.has_userinfo is userinfo


def test_a_server_cannot_be_changed() -> None:
    with pytest.raises(FrozenInstanceError):
        parse_server("h").host = "other"  # type: ignore[misc]


# --- what is refused -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("http://h", "unknown scheme in 'http://h'; use one of nats://, tls://, ws://, wss://"),
        ("nat://h", "unknown scheme"),
        ("nats+tls://h", "unknown scheme"),
        ("nats://", "the host is missing"),
        ("nats:///", "the host is missing"),
        ("nats://:4222", "the host is missing"),
        (":4222", "the host is missing"),
        ("nats://t@", "the host is missing"),
        ("nats://u:p@:4222", "the host is missing"),
        ("ws:///path", "the host is missing"),
        ("nats://h:", "the port must be a number from 1 to 65535, not ''"),
        ("nats://h:0", "the port must be a number from 1 to 65535, not '0'"),
        ("nats://h:65536", "the port must be a number from 1 to 65535, not '65536'"),
        ("nats://h:-1", "the port must be a number"),
        ("nats://h:+1", "the port must be a number"),
        ("nats://h:1_0", "the port must be a number"),
        ("nats://h:4.2", "the port must be a number"),
        ("nats://h: 1", "the port must be a number"),
        ("nats://h:\u0661", "the port must be a number"),
        ("nats://h:" + "9" * 5000, "the port must be a number"),
        ("nats://h:000001", "the port must be a number"),
        ("nats:h", "the port must be a number"),
        ("nats://[::1]:", "the port must be a number"),
        ("nats://[::1]:x", "the port must be a number"),
        ("nats://::1", "write an IPv6 address in brackets, as in [::1]:4222"),
        ("::1", "write an IPv6 address in brackets"),
        ("nats://h:1:2", "write an IPv6 address in brackets"),
        ("nats://fe80::1:4222", "write an IPv6 address in brackets"),
        ("nats://[::1", "an IPv6 address must be written as [address]:port"),
        ("nats://[::1]4222", "an IPv6 address must be written as [address]:port"),
        ("nats://[", "an IPv6 address must be written as [address]:port"),
        ("nats://[]", "the brackets must hold an IPv6 address"),
        ("nats://[localhost]", "the brackets must hold an IPv6 address"),
        ("nats://[127.0.0.1]:1", "the brackets must hold an IPv6 address"),
        ("nats://[::g]", "the brackets must hold an IPv6 address"),
        ("nats://h]", "the host contains a character that is not allowed in host names"),
        ("nats://a b", "the host contains a character"),
        ("nats://a\tb", "the host contains a character"),
        ("nats://a\r\nb", "the host contains a character"),
        ("nats://a\x00b", "the host contains a character"),
        ("nats://a\x7fb", "the host contains a character"),
        ("nats://a\x1b[31mb", "the host contains a character"),
        ("nats://[fe80::1%\n]:1", "the host contains a character"),
        ("nats://a\\b", "the host contains a character"),
        ("nats://h/path", "a nats:// URL has no path, query or fragment"),
        ("tls://h:1/?a=b", "a tls:// URL has no path, query or fragment"),
        ("nats://h?a=b", "a nats:// URL has no path, query or fragment"),
        ("nats://h#frag", "a nats:// URL has no path, query or fragment"),
        ("nats:/h", "a nats:// URL has no path, query or fragment"),
        ("nats://h//", "a nats:// URL has no path, query or fragment"),
        ("://h", "a nats:// URL has no path, query or fragment"),
        ("nats://@h", "the part before '@' is empty; use user:password@ or token@"),
        ("@h", "the part before '@' is empty"),
        ("nats://:p@h", "the part before '@' is empty"),
    ],
)
def test_refused(text: str, fault: str) -> None:
    for servers in (text, [text], ["good", text], f"good,{text}"):
        with pytest.raises(ConfigurationError) as caught:
            parse_servers(servers)
        assert fault in str(caught.value)
        assert len(str(caught.value)) < 6000
        assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    "text", ["ws://h/a\r\nX-Evil: 1", "ws://h/a b", "wss://h/?a\nb", "ws://h/\0"]
)
def test_a_websocket_path_cannot_end_the_request_line(text: str) -> None:
    with pytest.raises(ConfigurationError):
        parse_servers(text)


@pytest.mark.parametrize("servers", ["", "  ", ",", " , ,", [], [""], ()])
def test_no_server(servers: str | list[str]) -> None:
    with pytest.raises(ConfigurationError, match="no server given; pass a URL such as"):
        parse_servers(servers)


@pytest.mark.parametrize(
    "servers", ["nats://a,ws://b", "wss://a,tls://b", ["a", "ws://b"], ["ws://a", "b"]]
)
def test_websocket_and_other_servers_cannot_be_mixed(servers: str | list[str]) -> None:
    with pytest.raises(ConfigurationError, match="cannot be mixed"):
        parse_servers(servers)


@pytest.mark.parametrize("entry", [None, 5, b"nats://h", ["nats://h"], ("h", 4222)])
def test_entries_that_are_not_str(entry: object) -> None:
    with pytest.raises(TypeError, match=f"sequence of str, not of {type(entry).__name__}"):
        parse_servers(["h", entry])  # type: ignore[list-item]


@pytest.mark.parametrize("servers", [4222, object(), b"nats://h"])
def test_values_that_are_not_servers(servers: object) -> None:
    with pytest.raises(TypeError, match=f"str.*, not {type(servers).__name__}"):
        parse_servers(servers)  # type: ignore[arg-type]


# --- credentials are never shown -----------------------------------------------------------------

# None of these letters is in an error text, so that a fragment of the secret gives it away as
# surely as all of it.
SECRET_LETTERS = "QXZJK"
# What a careless user leaves unencoded. A comma splits a list; it has a test of its own.
SECRET_MARKS = ":@/?#[]%&=+ \\\"'!"

secrets = st.text(SECRET_LETTERS + SECRET_MARKS, min_size=1, max_size=12).filter(
    lambda secret: any(letter in SECRET_LETTERS for letter in secret)
)
userinfos = st.one_of(
    secrets.map(lambda secret: f"user:{secret}"),
    secrets.map(lambda secret: f"user:{quote(secret, safe='')}"),
    secrets,
    st.tuples(secrets, secrets).map(":".join),
    secrets.map(lambda secret: f":{secret}"),
)
schemes = st.sampled_from(
    ["nats://", "tls://", "ws://", "wss://", "", "http://", "na ts://", "://"]
)
ADDRESSES = [
    *("host", "host:1", "host:0", "host:port", "[::1]", "[::1", "[host]", "::1", "a b", "", ":"),
    *("h/p", "h?x", "h#x", "h/", "h\n", "h\x00", "h\\", "h]", "host:", "h:1:2"),
]


def assert_hidden(text: str) -> None:
    assert not set(SECRET_LETTERS) & set(text)


def show(server: Server) -> None:
    for text in (str(server), repr(server), f"{server}", server.url, server.address, server.host):
        assert_hidden(text)


@pytest.mark.slow
@example("ws://", "[J]/", "host")
@given(schemes, userinfos, st.sampled_from(ADDRESSES))
def test_userinfo_is_never_shown(scheme: str, userinfo: str, address: str) -> None:
    # In a URL with a path nobody can say what this is; it may be refused.
    unclear = scheme in ("ws://", "wss://") and bool(set("/?#") & set(userinfo))
    try:
        servers = parse_servers(f"{scheme}{userinfo}@{address}")
    except ConfigurationError as error:
        unchained = error.__cause__ is None and error.__suppress_context__
        shown = f"{error} {error!r}" + ("" if unchained else f" {error.__context__!r}")
    else:
        if unclear:
            return
        for server in servers:
            show(server)
            show(replace(server, tls_name="name", discovered=True))
            assert server.has_userinfo
        shown = repr(servers)
    assert_hidden(shown)


query_secrets = st.text(SECRET_LETTERS + ":?&=+%", min_size=1, max_size=12)


@given(st.sampled_from(["ws://", "wss://", "nats://", "tls://"]), query_secrets)
def test_a_query_is_never_shown(scheme: str, secret: str) -> None:
    for address in ("host/path", "host:1/", "host", "host:0/", "[x/", "/"):
        try:
            [server] = parse_servers(f"{scheme}{address}?token={secret}")
        except ConfigurationError as error:
            assert_hidden(f"{error!r}")
        else:
            show(server)
            assert secret in server.path


@pytest.mark.parametrize(
    "text",
    [
        "ws://h:x/?auth=QQ@XX",
        "wss://h/?auth=QQ@XX:ZZ",
        "ws://u:p@h:0/?auth=QQ@XX",
    ],
)
def test_an_at_sign_in_a_query_does_not_show_what_is_behind_it(text: str) -> None:
    try:
        [server] = parse_servers(text)
    except ConfigurationError as error:
        shown = repr(error)
    else:
        shown = repr(server) + server.host
    assert_hidden(shown)


@pytest.mark.parametrize(
    "text", ["wss://real.example/ws?to=me@evil.example", "ws://real.example/a@evil.example/b"]
)
def test_an_at_sign_behind_the_host_does_not_make_another_host(text: str) -> None:
    try:
        [server] = parse_servers(text)
    except ConfigurationError:
        return  # insisting on %40 would do as well
    assert server.host == "real.example"
    assert server.has_userinfo is False
    assert server.path == text.partition("real.example")[2]


@pytest.mark.parametrize(
    "servers", ["nats://user:QQ,XX@host", ["nats://user:QQ,XX@host"], "QQ:JJ,X@h"]
)
def test_a_comma_in_a_password_does_not_show_it(servers: str | list[str]) -> None:
    """It splits the list, so what is complained about is half a URL."""
    try:
        parsed = parse_servers(servers)
    except ConfigurationError as error:
        assert_hidden(repr(error))
    else:
        assert_hidden(repr(parsed))


@pytest.mark.parametrize(
    "text",
    ["nats://user:QX\udce9@host", "nats://QX\ud800@host", "nats://\udce9@h", "nats://h\udce9"],
)
def test_what_is_not_unicode_is_refused_at_once_without_showing_it(text: str) -> None:
    """As from an environment variable that is not UTF-8.

    Encoding it later would raise a UnicodeEncodeError, whose repr shows all of the text.
    """
    with pytest.raises(ConfigurationError) as caught:
        parse_servers(text)
    assert_hidden(repr(caught.value))
    assert caught.value.__cause__ is caught.value.__context__ is None


@pytest.mark.parametrize("url", ["nats://%ff@h", "nats://joe:%c3%28@h", "nats://%ed%a0%80:x@h"])
def test_credentials_that_are_not_text_are_rejected(url: str) -> None:
    with pytest.raises(ConfigurationError, match="percent-encoded credentials must be") as e:
        parse_server(url)
    assert e.value.__cause__ is e.value.__context__ is None
    assert "%ff" not in str(e.value)
    assert "%c3" not in str(e.value)


def test_percent_encoding_carries_any_text() -> None:
    text = "".join(map(chr, range(1, 0x100))) + "\u20ac\U0001f600"
    [server] = parse_servers(f"nats://{quote(text, safe='')}:{quote(text, safe='')}@h")
    assert (server.user, server.password, server.token) == (text, text, None)


@pytest.mark.slow
@given(st.text(min_size=1).filter(lambda text: text.isprintable()), st.text())
def test_encoded_userinfo_round_trip(user: str, password: str) -> None:
    encoded = f"{quote(user, safe='')}:{quote(password, safe='', errors='replace')}"
    [server] = parse_servers(f"tls://{encoded}@h:1")
    assert (server.user, server.password) == (user, password)
    [server] = parse_servers(f"tls://{quote(user, safe='')}@h:1")
    assert (server.user, server.token) == (None, user)


@pytest.mark.slow
@given(
    st.text(st.characters(exclude_categories=[]), max_size=20)
    | st.text("nats:/@[]%?#,. 1", max_size=16)
)
def test_any_bytes_are_parsed_or_rejected(text: str) -> None:
    try:
        parsed = parse_servers(text)
    except ConfigurationError as error:
        message = str(error)
        assert message
        return
    for server in parsed:
        assert server.host
        assert 0 < server.port < 65536
        assert server.scheme in ("nats", "tls", "ws", "wss")
        assert not set(server.host) & set(" \t\r\n\x00/?#@[]")


# --- addresses -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("host", "address"),
    [
        ("127.0.0.1", True),
        ("::1", True),
        ("fe80::1%eth0", True),
        ("localhost", False),
        ("1.2.3", False),
        ("1.2.3.4.5", False),
        ("", False),
        ("%eth0", False),
        ("a.b", False),
    ],
)
def test_is_ip_address(host: str, address: bool) -> None:
    assert is_ip_address(host) is address


@pytest.mark.parametrize(
    ("address", "loopback"),
    [
        ("127.0.0.1", True),
        ("127.255.255.254", True),
        ("::1", True),
        ("::1%lo", True),
        ("::ffff:127.0.0.1", True),
        ("::ffff:7f00:1", True),
        ("::ffff:10.0.0.1", False),
        ("::ffff:128.0.0.1", False),
        ("10.0.0.1", False),
        ("0.0.0.0", False),
        ("::", False),
        ("fe80::1", False),
        ("8.8.8.8", False),
        ("localhost", False),
        ("127.0.0.1.evil.example", False),
        ("", False),
    ],
)
def test_is_loopback(address: str, loopback: bool) -> None:
    assert is_loopback(address) is loopback
