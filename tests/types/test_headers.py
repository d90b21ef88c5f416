"""Message headers (ADR-4): the multi-map, and its wire form in both directions."""

from __future__ import annotations

import gc
import sys
import tracemalloc
from collections import UserList, deque
from collections.abc import Callable, Iterable, Mapping, MutableMapping
from types import FrameType
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from trio_nats.errors import InvalidHeaderError
from trio_nats.headers import Headers, HeadersLike, Status, decode_headers, encode_headers

# --- the multi-map -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "pairs"),
    [
        ((), []),
        ({}, []),
        ([], []),
        ({"A": "1", "B": "2"}, [("A", "1"), ("B", "2")]),
        ({"B": "2", "A": ["1", "0"]}, [("B", "2"), ("A", "1"), ("A", "0")]),
        ({"A": ("1", "0")}, [("A", "1"), ("A", "0")]),
        ({"A": []}, []),
        ([("A", "1"), ("B", "2"), ("A", "3")], [("A", "1"), ("B", "2"), ("A", "3")]),
        (iter([("A", "1")]), [("A", "1")]),
        (Headers([("A", "1"), ("A", "2")]), [("A", "1"), ("A", "2")]),
        ({"A": ""}, [("A", "")]),
        ({"A": "gr\u00fcn \u20ac"}, [("A", "gr\u00fcn \u20ac")]),
    ],
)
def test_what_headers_are_made_of(source: HeadersLike, pairs: list[tuple[str, str]]) -> None:
    headers = Headers(source)
    assert headers.pairs() == pairs
    assert headers == Headers(pairs)


@pytest.mark.parametrize("make", [list, tuple, deque, UserList])
def test_several_values_may_be_any_sequence(make: type[list[str]]) -> None:
    assert Headers({"A": make(["1", "2"])}).pairs() == [("A", "1"), ("A", "2")]


def test_order_repetition_and_case_are_kept() -> None:
    headers = Headers()
    headers.add("b", "1")
    headers.add("a", "2")
    headers.add("B", "3")
    headers.add("b", "4")
    assert headers.pairs() == [("b", "1"), ("a", "2"), ("B", "3"), ("b", "4")]
    assert headers.get_all("b") == ["1", "4"]
    assert headers.get_all("B") == ["3"]
    assert headers.get_all("c") == []
    assert list(headers) == ["b", "a", "B"]
    assert len(headers) == 3


def test_it_reads_as_a_mapping_of_first_values() -> None:
    headers = Headers([("A", "1"), ("b", "2"), ("A", "3")])
    assert isinstance(headers, MutableMapping)
    assert headers["A"] == "1"
    assert dict(headers) == {"A": "1", "b": "2"}
    assert list(headers.items()) == [("A", "1"), ("b", "2")]
    assert headers.get("a") is None
    assert headers.get("a", "else") == "else"
    assert "A" in headers
    assert "a" not in headers
    something_else: object = 5
    assert something_else not in headers
    with pytest.raises(KeyError, match=r"^'a'$"):
        headers["a"]


def test_assigning_replaces_all_values_at_the_first_position() -> None:
    headers = Headers([("x", "0"), ("A", "1"), ("b", "2"), ("A", "3"), ("a", "4"), ("A", "5")])
    headers["A"] = "new"
    assert headers.pairs() == [("x", "0"), ("A", "new"), ("b", "2"), ("a", "4")]
    headers["c"] = "last"
    assert headers.pairs()[-1] == ("c", "last")


def test_deleting_removes_every_value() -> None:
    headers = Headers([("A", "1"), ("b", "2"), ("A", "3"), ("a", "4")])
    del headers["A"]
    assert headers.pairs() == [("b", "2"), ("a", "4")]
    with pytest.raises(KeyError, match="A"):
        del headers["A"]
    assert headers.pairs() == [("b", "2"), ("a", "4")]


def test_the_rest_of_a_mutable_mapping() -> None:
    headers = Headers([("A", "1"), ("b", "2"), ("A", "3")])
    assert headers.pop("A") == "1"
    assert headers.pop("A", "none") == "none"
    assert headers.setdefault("b", "9") == "2"
    assert headers.setdefault("c", "3") == "3"
    headers.update({"b": "4"}, d="5")
    assert headers.pairs() == [("b", "4"), ("c", "3"), ("d", "5")]
    assert headers.popitem() == ("d", "5")
    assert headers
    headers.clear()
    assert not headers
    with pytest.raises(KeyError):
        headers.popitem()


def test_ignoring_case() -> None:
    headers = Headers([("Content-Type", "a"), ("content-type", "b")])
    assert headers.get_ignoring_case("CONTENT-TYPE") == "a"
    assert headers.get_ignoring_case("content-type") == "a"
    assert headers.get_ignoring_case("other") is None
    assert headers.get("CONTENT-TYPE") is None


def test_copies_are_independent() -> None:
    headers = Headers({"A": "1"})
    for copy in (headers.copy(), Headers(headers)):
        assert copy == headers
        copy.add("A", "2")
        copy["B"] = "3"
        assert headers.pairs() == [("A", "1")]
    headers.pairs().append(("C", "4"))
    assert headers.pairs() == [("A", "1")]


def test_equality_is_that_of_all_pairs_in_order() -> None:
    one = Headers([("A", "1"), ("A", "2")])
    assert one == Headers({"A": ["1", "2"]})
    assert one != Headers([("A", "2"), ("A", "1")])
    assert one != Headers({"A": "1"})
    assert one != Headers({"a": ["1", "2"]})
    assert one != [("A", "1"), ("A", "2")]
    assert Headers({"A": "1"}) != {"A": "1"}
    with pytest.raises(TypeError, match="unhashable"):
        hash(one)


def test_repr() -> None:
    assert repr(Headers({"A": ["1", "2"]})) == "Headers([('A', '1'), ('A', '2')])"
    assert repr(Headers()) == "Headers([])"


# --- refused headers -----------------------------------------------------------------------------


BAD_NAMES = [
    *("", " ", "a b", " a", "a ", "a:b", ":", "a\r\nb", "a\n", "a\x00", "\t", "\x7f"),
    *("gr\u00fcn", "\u20ac", "\ud800", "x" * 1000 + " "),
]


@pytest.mark.parametrize("name", BAD_NAMES)
def test_bad_names(name: str) -> None:
    headers = Headers({"kept": "1"})
    with pytest.raises(InvalidHeaderError, match="printable ASCII without spaces or a colon") as e:
        headers.add(name, "v")
    assert len(str(e.value)) < 250
    assert str(e.value).isprintable()
    with pytest.raises(InvalidHeaderError, match="is not allowed"):
        headers[name] = "v"
    for source in ({name: "v"}, [(name, "v")], {name: ["v", "w"]}):
        with pytest.raises(InvalidHeaderError, match="is not allowed"):
            Headers(source)
    assert headers.pairs() == [("kept", "1")]


def test_every_printable_ascii_character_but_the_colon_makes_a_name() -> None:
    name = "".join(chr(code) for code in range(0x21, 0x7F) if chr(code) != ":")
    assert encode_headers({name: "v"}) == b"NATS/1.0\r\n%b: v\r\n\r\n" % name.encode()
    assert decode_headers(encode_headers({name: "v"}))[0].pairs() == [(name, "v")]


@pytest.mark.parametrize("name", [b"A", 1, None, ("A",), 1.5])
def test_names_that_are_not_str(name: object) -> None:
    kind = type(name).__name__
    with pytest.raises(TypeError, match=f"^header names must be str, not {kind}; decode them"):
        Headers([(name, "v")])  # type: ignore[list-item]
    with pytest.raises(TypeError, match=f"^header names must be str, not {kind}"):
        Headers()[name] = "v"  # type: ignore[index]


@pytest.mark.parametrize(
    "value",
    ["\r", "\n", "\x00", "a\r\nB: c", "a\nB: c", "a\rb", "a\x00b", "\n ", "\r\n", "v\r\n\r\nPING"],
)
def test_values_that_would_end_the_line(value: str) -> None:
    headers = Headers({"A": "old"})
    for attempt in (headers.add, headers.__setitem__, lambda n, v: Headers({n: [v]})):
        with pytest.raises(InvalidHeaderError, match="header 'A': the value must not contain CR"):
            attempt("A", value)
    assert headers.pairs() == [("A", "old")]


@pytest.mark.parametrize("code", [0xD800, 0xDFFF, 0xDC00, 0xDC0A, 0xDC0D, 0xDC7F, 0xDD00])
def test_values_that_are_not_unicode(code: int) -> None:
    with pytest.raises(InvalidHeaderError, match="header 'A': the value must be valid Unicode"):
        Headers({"A": "a" + chr(code)})


@pytest.mark.parametrize("value", [b"v", 1, None, True, 1.5, {"x": "y"}, {"v"}, object()])
def test_values_that_are_not_str(value: object) -> None:
    kind = type(value).__name__
    message = f"^header 'A': the value must be a str, not {kind}; convert it$"
    with pytest.raises(TypeError, match=message):
        Headers({"A": value})  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=message):
        Headers({"A": ["fine", value]})  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=message):
        Headers()["A"] = value  # type: ignore[assignment]


@pytest.mark.parametrize("source", ["A: 1", b"A: 1", None, 5, object()])
def test_objects_that_are_not_headers(source: object) -> None:
    for make in (Headers, encode_headers):
        with pytest.raises(TypeError, match="headers must be a mapping or pairs of str"):
            make(source)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "entry", ["A", "AB", "A: 1", ("A",), ("A", "1", "2"), 5, None, b"", {"A": "1", "B": "2"}]
)
def test_entries_that_are_not_pairs(entry: object) -> None:
    with pytest.raises(TypeError, match=r"must be .name, value. pairs; got "):
        Headers([("A", "1"), entry])  # type: ignore[list-item]


def test_errors_are_value_errors() -> None:
    with pytest.raises(ValueError, match="header 'A'"):
        Headers({"A": "\n"})


# --- the wire ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("headers", "block"),
    [
        ({}, b"NATS/1.0\r\n\r\n"),
        ({"A": "1"}, b"NATS/1.0\r\nA: 1\r\n\r\n"),
        ({"A": ["1", "2"], "b": "3"}, b"NATS/1.0\r\nA: 1\r\nA: 2\r\nb: 3\r\n\r\n"),
        ({"A": ""}, b"NATS/1.0\r\nA: \r\n\r\n"),
        ({"A": " \tx y\t "}, b"NATS/1.0\r\nA: x y\r\n\r\n"),
        ({"A": "b: c"}, b"NATS/1.0\r\nA: b: c\r\n\r\n"),
        ({"A": "\u20ac"}, b"NATS/1.0\r\nA: \xe2\x82\xac\r\n\r\n"),
        ({"A": "\udcff"}, b"NATS/1.0\r\nA: \xff\r\n\r\n"),
        (Headers({"A": "1"}), b"NATS/1.0\r\nA: 1\r\n\r\n"),
    ],
)
def test_encoding(headers: HeadersLike, block: bytes) -> None:
    assert encode_headers(headers) == block


@pytest.mark.parametrize(
    ("block", "pairs", "status"),
    [
        (b"NATS/1.0\r\n\r\n", [], None),
        (b"NATS/1.0\r\nA: 1\r\n\r\n", [("A", "1")], None),
        (b"NATS/1.0\r\nA:1\r\nA:  2\t\r\na:\r\n\r\n", [("A", "1"), ("A", "2"), ("a", "")], None),
        (b"NATS/1.0\r\nA: b: c\r\n\r\n", [("A", "b: c")], None),
        (b"NATS/1.0 503\r\n\r\n", [], Status(503)),
        (b"NATS/1.0 503 No Responders\r\n\r\n", [], Status(503, "No Responders")),
        (b"NATS/1.0   100   Idle Heartbeat \r\n\r\n", [], Status(100, "Idle Heartbeat")),
        (b"NATS/1.0 404 No Messages\r\nA: 1\r\n\r\n", [("A", "1")], Status(404, "No Messages")),
        (b"NATS/1.0 000\r\n\r\n", [], Status(0)),
        (b"NATS/1.0 50\r\n\r\n", [], None),
        (b"NATS/1.0 5030\r\n\r\n", [], None),
        (b"NATS/1.0 +50 x\r\n\r\n", [], None),
        (b"NATS/1.0 fiv x\r\n\r\n", [], None),
        ("NATS/1.0 \u0665\u0660\u0663 x\r\n\r\n".encode(), [], None),
        (b"NATS/1.0503\r\n\r\n", [], None),
        (b"NATS/1.0 503 \xff\r\n\r\n", [], Status(503, "\udcff")),
    ],
)
def test_decoding(block: bytes, pairs: list[tuple[str, str]], status: Status | None) -> None:
    headers, found = decode_headers(block)
    assert headers.pairs() == pairs
    assert found == status


def test_status_fields() -> None:
    status = decode_headers(b"NATS/1.0 409 Message Size Exceeds MaxBytes\r\n\r\n")[1]
    assert status is not None
    assert status.code == 409
    assert status.description == "Message Size Exceeds MaxBytes"


@pytest.mark.parametrize(
    ("block", "pairs"),
    [
        (b"", []),
        (b"\r\n", []),
        (b"HTTP/1.1 200 OK\r\nA: 1\r\n\r\n", []),
        (b"nats/1.0\r\nA: 1\r\n\r\n", []),
        (b" NATS/1.0\r\nA: 1\r\n\r\n", []),
        (b"\xffNATS/1.0\r\nA: 1\r\n\r\n", []),
        (b"NATS/1.0\r\nA: 1", [("A", "1")]),
        (b"NATS/1.0\r\nno colon\r\nA: 1\r\n\r\n", [("A", "1")]),
        (b"NATS/1.0\r\n: no name\r\nA: 1\r\n\r\n", [("A", "1")]),
        (b"NATS/1.0\r\nbad name: x\r\nA: 1\r\n\r\n", [("A", "1")]),
        (b"NATS/1.0\r\nA : x\r\nA: 1\r\n\r\n", [("A", "1")]),
        (b"NATS/1.0\r\n A: folded\r\nA: 1\r\n\r\n", [("A", "1")]),
        (b"NATS/1.0\r\n\xc3\xbc: x\r\nA: 1\r\n\r\n", [("A", "1")]),
        (b"NATS/1.0\r\n\x00A: x\r\nA: 1\r\n\r\n", [("A", "1")]),
        (b"NATS/1.0\r\nA: x\ny\r\nA: 1\r\n\r\n", [("A", "1")]),
        (b"NATS/1.0\r\nA: x\r\nA: 1\n\r\n\r\n", [("A", "x")]),
        (b"NATS/1.0\r\nA: x\x00\r\nA: 1\r\n\r\n", [("A", "1")]),
        (b"NATS/1.0\r\nA: x\r\r\nA: 1\r\n\r\n", [("A", "1")]),
        (b"NATS/1.0\r\nA: \xff\xfe\r\n\r\n", [("A", "\udcff\udcfe")]),
    ],
)
def test_decoding_leaves_out_what_cannot_be_read(
    block: bytes, pairs: list[tuple[str, str]]
) -> None:
    assert decode_headers(block)[0].pairs() == pairs


@pytest.mark.parametrize("end", [b"\n", b"\r", b"\x00"])
def test_passing_received_headers_on_cannot_add_to_them(end: bytes) -> None:
    """A peer that ends lines at a bare line feed must not find a header we did not see."""
    received, _ = decode_headers(b"NATS/1.0\r\nA: 1" + end + b"Admin: yes\r\nB: 2\r\n\r\n")
    assert "Admin" not in received
    for passed_on in (received, received.copy(), Headers(received)):
        try:
            block = encode_headers(passed_on)
        except InvalidHeaderError:
            continue
        assert end not in block.replace(b"\r\n", b"")


values = st.text(
    st.characters(exclude_categories=["Cs"], exclude_characters="\r\n\x00"), max_size=12
)
names = st.text(
    st.characters(min_codepoint=0x21, max_codepoint=0x7E, exclude_characters=":"),
    min_size=1,
    max_size=6,
)
all_pairs = st.lists(st.tuples(names, values), max_size=6)


@pytest.mark.slow
@given(all_pairs)
@example([("A", "\x85\u2028\x1c"), ("A", "\x0b")])
def test_round_trip(pairs: list[tuple[str, str]]) -> None:
    headers, status = decode_headers(encode_headers(pairs))
    assert headers.pairs() == [(name, value.strip(" \t")) for name, value in pairs]
    assert headers == Headers(pairs)
    assert status is None


raw_values = st.binary(max_size=12).map(
    lambda raw: raw.replace(b"\r", b"").replace(b"\n", b"").replace(b"\x00", b"").strip(b" \t")
)


@pytest.mark.slow
@given(st.lists(st.tuples(names.map(str.encode), raw_values), max_size=5))
def test_bytes_that_are_not_text_survive(pairs: list[tuple[bytes, bytes]]) -> None:
    block = b"".join([b"NATS/1.0", *(b"\r\n%b: %b" % pair for pair in pairs), b"\r\n\r\n"])
    headers, _ = decode_headers(block)
    assert len(headers.pairs()) == len(pairs)
    assert encode_headers(headers) == block
    assert encode_headers(headers.pairs()) == block


hostile = st.binary(max_size=60) | st.lists(
    st.sampled_from(
        [b"NATS/1.0", b"NATS/", b" 503", b" ", b"\r\n", b"\r", b"\n", b":", b"A", b"A: 1", b"\xff"]
    ),
    max_size=14,
).map(b"".join)


@pytest.mark.slow
@given(hostile | hostile.map(lambda rest: b"NATS/1.0" + rest))
def test_decoding_never_raises(block: bytes) -> None:
    headers, status = decode_headers(block)
    for name, value in headers.pairs():
        assert name.isascii()
        assert name.isprintable()
        assert not {" ", ":"} & set(name)
        assert not {"\r", "\n", "\x00"} & set(value)
    assert status is None or 0 <= status.code <= 999


# --- against a model -----------------------------------------------------------------------------

few_names = st.sampled_from(["A", "a", "B"])
few_values = st.sampled_from(["1", "2"])
steps = st.lists(
    st.tuples(st.sampled_from(["add", "set", "delete"]), few_names, few_values), max_size=12
)


@pytest.mark.slow
@given(steps)
def test_every_change_does_what_a_plain_list_would(made: list[tuple[str, str, str]]) -> None:
    headers = Headers()
    model: list[tuple[str, str]] = []
    for step, name, value in made:
        there = [position for position, pair in enumerate(model) if pair[0] == name]
        if step == "add":
            headers.add(name, value)
            model.append((name, value))
        elif step == "set":
            headers[name] = value
            for position in reversed(there[1:]):
                del model[position]
            if there:
                model[there[0]] = (name, value)
            else:
                model.append((name, value))
        elif there:
            del headers[name]
            for position in reversed(there):
                del model[position]
        assert headers.pairs() == model
        check_views(headers, model)


@pytest.mark.slow
@given(st.dictionaries(names, st.text(max_size=12)))
def test_a_plain_dict_is_sent_as_headers_of_it_are(source: dict[str, str]) -> None:
    def encoded(given: HeadersLike) -> bytes | str:
        try:
            return encode_headers(given)
        except InvalidHeaderError as error:
            return str(error)

    expected = encoded(list(source.items()))
    # The second time all its names are known.
    assert encoded(source) == encoded(source) == expected


def test_a_str_subclass_with_its_own_format_is_sent_unchanged() -> None:
    class Sly(str):
        def __format__(self, spec: str) -> str:
            return "x\r\nPUB a 0"

    assert encode_headers({"k": "v"}) == encode_headers({Sly("k"): "v"})
    assert encode_headers({"k": "v"}) == encode_headers({"k": Sly("v")})


def check_views(headers: Headers, pairs: Iterable[tuple[str, str]]) -> None:
    first: dict[str, str] = {}
    for name, value in pairs:
        first.setdefault(name, value)
    as_mapping: Mapping[str, str] = headers
    assert dict(as_mapping) == first
    assert len(headers) == len(first)
    assert list(headers.keys()) == list(first)
    assert list(headers.values()) == list(first.values())


# --- very many ------------------------------------------------------------------------------------


class Counted(str):
    """A name that counts how often it is looked at, by C code too."""

    looks = 0

    def __hash__(self) -> int:
        Counted.looks += 1
        return super().__hash__()

    def __eq__(self, other: object) -> bool:
        Counted.looks += 1
        return super().__eq__(other)


def _delete_all(headers: Headers) -> None:
    for name in headers:
        del headers[name]


def _pop_all(headers: Headers) -> None:
    while headers:
        headers.popitem()


def _take_first(headers: Headers) -> None:
    while headers:
        del headers[next(iter(headers))]


def _set_all(headers: Headers) -> None:
    for name in headers:
        headers[name] = "x"


def _set_and_delete(headers: Headers) -> None:
    for _ in headers.pairs():
        headers[Counted("new")] = "x"
        del headers[Counted("new")]


OPERATIONS: dict[str, Callable[[Headers], object]] = {
    "dict": dict,
    "keys": lambda headers: list(headers.keys()),
    "values": lambda headers: list(headers.values()),
    "items": lambda headers: list(headers.items()),
    "len": len,
    "pairs": lambda headers: headers.pairs(),
    "copy": lambda headers: dict(headers.copy()),
    "equal": lambda headers: headers == headers.copy(),
    "mapping equal": lambda headers: dict(headers) == dict(headers.copy()),
    "repr": repr,
    "encode": encode_headers,
    "each": lambda headers: [headers[name] for name in headers],
    "each of pairs": lambda headers: [headers[name] for name, _ in headers.pairs()],
    "contains": lambda headers: [name in headers for name in headers],
    "get": lambda headers: [headers.get(name) for name in headers],
    "get_all": lambda headers: [headers.get_all(name) for name in headers],
    "get_ignoring_case": lambda headers: headers.get_ignoring_case("last"),
    "absent": lambda headers: [headers.get(str(number)) for number in range(len(headers))],
    "value in": lambda headers: "none" in headers.values(),
    "set": _set_all,
    "update": lambda headers: headers.update(dict.fromkeys(headers, "x")),
    "update other": lambda headers: Headers().update(headers),
    "setdefault": lambda headers: [headers.setdefault(name, "x") for name in headers],
    "add": lambda headers: [headers.add(name, "x") for name in headers],
    "delete": _delete_all,
    "popitem": _pop_all,
    "take the first": _take_first,
    "pop": lambda headers: [headers.pop(name) for name in headers],
    "set and delete": _set_and_delete,
    "clear": lambda headers: headers.clear(),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", OPERATIONS)
@pytest.mark.parametrize("repeated", [False, True])
def test_nothing_takes_time_for_each_pair_of_headers(name: str, *, repeated: bool) -> None:
    def looks(count: int) -> int:
        names = [
            Counted("many" if repeated and number % 2 else f"n{number}") for number in range(count)
        ]
        headers = Headers([(one, "v") for one in names])
        Counted.looks = 0
        lines = _lines_of(lambda: OPERATIONS[name](headers))
        return Counted.looks + lines

    # Twice as many headers: twice as many looks, and lines of Python. Four times were quadratic.
    assert looks(200) < 2.5 * looks(100) + 100


def _lines_of(run: Callable[[], object]) -> int:
    """How many lines of Python are executed."""
    lines = 0

    def trace(frame: FrameType, event: str, arg: object) -> Any:
        nonlocal lines
        lines += event == "line"
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        run()
    finally:
        sys.settrace(before)
    return lines


def test_looking_at_the_first_makes_no_list_of_all() -> None:
    headers = Headers([(f"n{number}", "v") for number in range(10_000)])
    del headers["n0"]
    tracemalloc.start()
    try:
        assert next(iter(headers)) == "n1"
        assert tracemalloc.get_traced_memory()[1] < 10_000
    finally:
        tracemalloc.stop()


@pytest.mark.slow
def test_nothing_is_remembered_of_the_names_that_peers_choose() -> None:
    def memory() -> int:
        gc.collect()
        return tracemalloc.get_traced_memory()[0]

    tracemalloc.start()
    try:
        before = memory()
        for number in range(50):
            name = f"{number}-" + "x" * 100_000
            decode_headers(f"NATS/1.0\r\n{name}: v\r\n\r\n".encode())
            encode_headers({name: "v"})
        del name
        assert memory() - before < 100_000
    finally:
        tracemalloc.stop()


@pytest.mark.slow
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["add", "set", "delete", "pop", "popitem", "clear", "look"]),
            st.integers(0, 5),
        ),
        max_size=80,
    ),
    st.integers(0, 40),
)
def test_deleted_entries_are_never_visible(changes: list[tuple[str, int]], count: int) -> None:
    pairs = [(f"n{number % 6}", str(number)) for number in range(count)]
    headers = Headers(pairs)
    for position, (what, number) in enumerate(changes):
        name, value = f"n{number}", f"v{position}"
        there = [place for place, pair in enumerate(pairs) if pair[0] == name]
        if what == "add":
            headers.add(name, value)
            pairs.append((name, value))
        elif what == "set":
            headers[name] = value
            if there:
                pairs[there[0]] = (name, value)
                pairs = [pair for place, pair in enumerate(pairs) if place not in there[1:]]
            else:
                pairs.append((name, value))
        elif what in ("delete", "pop"):
            assert headers.pop(name, None) == (pairs[there[0]][1] if there else None)
            pairs = [pair for pair in pairs if pair[0] != name]
        elif what == "popitem" and pairs:
            last, first = headers.popitem()
            assert first == next(value for key, value in pairs if key == last)
            pairs = [pair for pair in pairs if pair[0] != last]
        elif what == "clear":
            headers.clear()
            pairs = []
        assert headers.pairs() == pairs
        assert list(headers) == list(dict(pairs))
        assert [headers[name] for name in headers] == [
            next(value for key, value in pairs if key == name) for name in dict(pairs)
        ]
        assert headers.get_all(name) == [value for key, value in pairs if key == name]
        assert len(headers) == len(dict(pairs))
        assert headers == Headers(pairs)
