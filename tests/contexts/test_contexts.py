"""Context files: what is read, what is refused, and what is never shown."""

from __future__ import annotations

import base64
import json
import traceback
from pathlib import Path
from typing import Any

import pytest

from tests.support.jwts import Key, Operator
from trio_nats import (
    JWT,
    Auth,
    Combined,
    ConfigurationError,
    Context,
    Credentials,
    CredentialsError,
    NKey,
    TLSMode,
    TLSOptions,
    Token,
    UserPassword,
    list_contexts,
    load_context,
    open_nats,
)
from trio_nats.contexts import selected_context

SECRET = "s3cr3t-w0rd"


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where contexts are; empty, and nobody's real one."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for name in ("NATS_CONTEXT", "NATS_URL"):
        monkeypatch.delenv(name, raising=False)
    made = tmp_path / "config" / "nats" / "context"
    made.mkdir(parents=True)
    return made


def write(folder: Path, name: str = "one", /, **content: Any) -> Path:
    path = folder / f"{name}.json"
    path.write_text(json.dumps(content), "utf-8")
    return path


# --- finding -------------------------------------------------------------------------------------


def test_by_name(folder: Path) -> None:
    path = write(folder, "prod", url="nats://a:1,tls://b", description="x", user="u", password="p")
    context = load_context("prod")
    assert (context.name, context.path) == ("prod", path)
    assert (context.servers, context.description) == ("nats://a:1,tls://b", "x")


def test_by_path(tmp_path: Path) -> None:
    path = tmp_path / "elsewhere.json"
    path.write_text('{"url": "nats://a"}')
    assert load_context(str(path)) == load_context(path)
    assert load_context(path).name == "elsewhere"


def test_a_context_is_itself() -> None:
    context = Context(url="nats://a")
    assert load_context(context) is context


def test_the_selected_one(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(folder, "chosen", url="nats://chosen")
    write(folder, "other", url="nats://other")
    with pytest.raises(ConfigurationError, match="no context is selected"):
        load_context()
    (folder.parent / "context.txt").write_text("chosen\n")
    assert selected_context() == "chosen"
    assert load_context().name == "chosen"
    monkeypatch.setenv("NATS_CONTEXT", "other")
    assert load_context().name == "other"


def test_below_home_without_xdg(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("XDG_CONFIG_HOME")
    folder = tmp_path / "home" / ".config" / "nats" / "context"
    folder.mkdir(parents=True)
    write(folder, "mine", url="nats://mine")
    assert load_context("mine").servers == "nats://mine"


def test_list(folder: Path) -> None:
    for name in ("b", "a"):
        write(folder, name)
    (folder / "empty.json").touch()
    (folder / "note.txt").write_text("x")
    (folder / "a..b.json").write_text("{}")
    (folder / "folder.json").mkdir()
    assert list_contexts() == ["a", "b"]


def test_list_of_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "nowhere"))
    assert list_contexts() == []


@pytest.mark.parametrize("name", ["../one", "a/b", "a\\b", "..", "a\0b", "a\nb"])
def test_names_of_other_files(name: str) -> None:
    with pytest.raises(ConfigurationError, match="not a valid context name"):
        load_context(name)


def test_a_missing_context_lists_the_others(folder: Path) -> None:
    write(folder, "there")
    with pytest.raises(ConfigurationError, match=r"no context 'nowhere' .*known: there"):
        load_context("nowhere")


@pytest.mark.parametrize("given", [b"one", 1, ("one",), ""])
def test_a_file_that_is_not_a_context(given: Any) -> None:
    kind = ConfigurationError if given == "" else TypeError
    with pytest.raises(kind, match="context"):
        load_context(given)


def all_of(error: BaseException) -> str:
    """Its traceback, with the variables of each frame of the package."""
    found = traceback.TracebackException.from_exception(error, capture_locals=True)
    found.stack = traceback.StackSummary.from_list(
        [frame for frame in found.stack if "trio_nats/" in frame.filename]
    )
    assert found.stack
    return "".join(found.format())


# --- content -------------------------------------------------------------------------------------


def test_unknown_keys_and_nulls_are_ignored(folder: Path) -> None:
    write(folder, name="impostor", path="/x", url=None, windows_ca_certs_match=["x"], future={})
    context = load_context("one")
    assert context.name == "one"
    assert context.servers == "nats://localhost:4222"
    assert context.auth() is None
    assert context.tls() is None


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ({"url": 5, "password": SECRET}, "'url' must be text, not int"),
        ({"url": 5}, "'url' must be text, not int"),
        ({"tls_first": "yes"}, "'tls_first' must be true or false, not str"),
        ({"tls_first": 1}, "'tls_first' must be true or false, not int"),
        ({"password": [SECRET]}, "'password' must be text, not list"),
        ({"url": f"ftp://u:{SECRET}@h"}, "unknown scheme"),
        ({"url": f"nats://u:{SECRET}/@h:99999"}, "the port must be a number"),
        ({"inbox_prefix": "a b"}, "inbox prefix 'a b' is not allowed"),
    ],
)
def test_values_that_cannot_be(folder: Path, content: dict[str, Any], complaint: str) -> None:
    write(folder, **content)
    with pytest.raises(ConfigurationError, match=f"context 'one': .*{complaint}") as caught:
        load_context("one")
    assert SECRET not in all_of(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        f'{{"password": "{SECRET}"',
        "[]",
        "",
        "5",
        "[" * 100_000,
        f'{{"password": "{SECRET}\ud800"}}'.encode("utf-8", "surrogatepass"),
    ],
    ids=["cut", "list", "empty", "number", "deep", "unicode"],
)
def test_paths_that_are_not_files(folder: Path, text: str | bytes) -> None:
    data = text.encode() if isinstance(text, str) else text
    (folder / "one.json").write_bytes(data)
    with pytest.raises(ConfigurationError, match="context 'one'") as caught:
        load_context("one")
    assert SECRET not in all_of(caught.value)
    assert caught.value.__context__ is None


def test_a_device_file_is_not_read() -> None:
    with pytest.raises(ConfigurationError, match="not a regular file"):
        load_context("/dev/zero")


def test_a_large_file_is_not_read_to_its_end(folder: Path) -> None:
    with (folder / "one.json").open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(ConfigurationError, match="larger than"):
        load_context("one")


def test_a_file_that_cannot_be_read(folder: Path) -> None:
    (folder / "one.json").mkdir()
    with pytest.raises(
        ConfigurationError, match=r"context 'one': cannot read .* not a regular file"
    ):
        load_context("one")


# --- credentials ---------------------------------------------------------------------------------

USER = Key()


def auth_of(**fields: Any) -> Auth | None:
    return Context(**fields).auth()


def test_each_kind_of_credentials() -> None:
    assert auth_of() is None
    assert auth_of(user="u", password="p") == UserPassword("u", "p")
    assert auth_of(user="u") == UserPassword("u", "")
    assert auth_of(token="t") == Token("t")
    assert auth_of(creds="/a/b.creds") == Credentials(file=Path("/a/b.creds"))
    assert auth_of(nkey="/a/b.nk") == NKey(file=Path("/a/b.nk"))
    user = Operator().user("alice")
    assert auth_of(user_jwt=user.jwt, user_seed=user.seed) == JWT(user.jwt, seed=user.seed)


def test_paths_are_expanded_as_nats_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KEYS", "/keys")
    home = tmp_path / "home"
    assert auth_of(creds="~/x.creds") == Credentials(file=home / "x.creds")
    assert auth_of(creds="$KEYS/x.creds") == Credentials(file=Path("/keys/x.creds"))
    assert auth_of(creds="${KEYS}/x") == Credentials(file=Path("/keys/x"))
    assert auth_of(creds="file:///k/x") == Credentials(file=Path("/k/x"))
    assert auth_of(nkey="x.nk") == NKey(file=Path("x.nk"))
    tls = Context(ca="~/ca.pem", cert="$KEYS/c.pem", key="file://~/k.pem").tls()
    assert tls == TLSOptions(
        ca_file=home / "ca.pem", cert_file=Path("/keys/c.pem"), key_file=home / "k.pem"
    )


def test_references_in_place_of_secrets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("THE_WORD", SECRET)
    (tmp_path / "word").write_text(SECRET + "\n")
    inline = "data:text/plain;base64," + base64.b64encode(SECRET.encode()).decode()
    assert auth_of(token="env://THE_WORD") == Token(SECRET)
    assert auth_of(token=inline) == Token(SECRET)
    assert auth_of(user="u", password=f"file://{tmp_path}/word") == UserPassword("u", SECRET)
    user = Operator().user("alice")
    monkeypatch.setenv("THE_CREDS", user.creds)
    monkeypatch.setenv("THE_SEED", user.seed)
    assert auth_of(creds="ENV://THE_CREDS") == Credentials(text=user.creds)
    assert auth_of(nkey="env://THE_SEED") == NKey(seed=user.seed)


@pytest.mark.parametrize(
    ("fields", "complaint"),
    [
        ({"token": "env://NOT_SET_AT_ALL"}, "'token': .* 'NOT_SET_AT_ALL' is not set"),
        ({"token": "data:plain"}, "'token': inline data must be written as data:;base64"),
        ({"token": "data:;base64,!!"}, "'token': inline data must be written"),
        ({"token": "file:///not/there"}, "'token': there is no file '/not/there'"),
        ({"creds": "nsc://o/a/u"}, "'creds' refers to nsc, which is not run; .*nsc generate creds"),
        ({"creds": "op://vault/item"}, "'creds' refers to 1Password's op, which is not run"),
        ({"nsc": "nsc://o/a/u"}, "'nsc' refers to nsc, which is not run"),
        ({"user": "u", "creds": "c"}, "more than one kind of credentials: user, creds"),
    ],
)
def test_unavailable_credentials(fields: dict[str, str], complaint: str) -> None:
    with pytest.raises(ConfigurationError, match=f"context 'one': {complaint}"):
        Context(name="one", **fields).auth()


def test_a_token_may_stand_beside_the_rest() -> None:
    both = auth_of(user="u", password="p", token="t")
    assert both == Combined(UserPassword("u", "p"), Token("t"))
    assert auth_of(creds="c", token="t") == Combined(Credentials(file=Path("c")), Token("t"))
    with pytest.raises(ConfigurationError, match="more than one kind of credentials: user, creds"):
        auth_of(user="u", creds="c", token="t")


def test_a_variable_that_is_not_set_is_empty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NOT_SET", raising=False)
    monkeypatch.setenv("KEYS", "/keys/$HOME")
    for path in ("$NOT_SET/x.creds", "${NOT_SET}/x.creds"):
        assert auth_of(creds=path) == Credentials(file=Path("/x.creds"))
    # What a variable holds is not looked into again.
    assert auth_of(creds="$KEYS/x") == Credentials(file=Path("/keys/$HOME/x"))
    for path in ("$NOT_SET", "${NOT_SET}$NOT_SET"):
        with pytest.raises(ConfigurationError, match=r"the variables in .* are not set"):
            auth_of(creds=path)


def test_a_seed_passed_as_a_path_is_not_quoted() -> None:
    with pytest.raises(CredentialsError) as caught:
        auth_of(creds=USER.seed)
    assert USER.seed not in "".join(traceback.format_exception(caught.value))


def test_nsc_is_ignored_if_it_is_not_needed() -> None:
    context = Context(nsc="nsc://o/a/u", url="nats://a", token="t")
    assert context.auth() == Token("t")
    assert context.servers == "nats://a"
    with pytest.raises(ConfigurationError, match="write the servers into 'url'"):
        _ = Context(nsc="nsc://o/a/u", token="t").servers


def test_secrets_are_not_shown() -> None:
    context = Context(
        name="one",
        url=f"nats://u:{SECRET}@h",
        user="u",
        password=SECRET,
        token=SECRET,
        creds=f"data:;base64,{SECRET}",
        user_jwt=SECRET,
        user_seed=SECRET,
    )
    assert SECRET not in f"{context!r} {context}"
    assert "nats://h:4222" in repr(context)


# --- TLS -----------------------------------------------------------------------------------------


def test_tls_first_is_implicit() -> None:
    assert Context(tls_first=True).tls() == TLSOptions(mode=TLSMode.IMPLICIT)


def test_references_are_no_certificates() -> None:
    with pytest.raises(ConfigurationError, match="'ca' must be the path of a file"):
        Context(ca="env://CA").tls()


def test_what_is_not_supported() -> None:
    with pytest.raises(ConfigurationError, match="socks_proxy"):
        open_nats(context=Context(socks_proxy="socks5://h"))
    with pytest.raises(ConfigurationError, match="windows_cert_store"):
        open_nats(context=Context(windows_cert_store="user"))
