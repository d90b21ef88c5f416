"""The pool of servers, against gossip of all kinds."""

from __future__ import annotations

import random
from collections.abc import Sequence

import pytest

from trio_nats._core.server_pool import ServerPool
from trio_nats.server_info import ServerInfo
from trio_nats.servers import Server, parse_servers


def pool(urls: str, *, randomize: bool = False) -> ServerPool:
    return ServerPool(parse_servers(urls), randomize=randomize)


def urls_of(servers: Sequence[Server]) -> list[str]:
    return [server.url for server in servers]


def gossip(*addresses: str) -> ServerInfo:
    return ServerInfo(connect_urls=addresses)


@pytest.mark.parametrize("seed", range(20))
def test_seeds_stay_and_members_come_and_go(seed: int) -> None:
    chance = random.Random(seed)
    servers = pool("nats://u:p@seed1:1,nats://seed2:2", randomize=bool(seed % 2))
    seeds = set(servers.servers)
    for _ in range(60):
        current = chance.choice(servers.servers)
        servers.connected(current)
        assert servers.servers[-1] == current
        if chance.random() < 0.3:
            servers.failed(chance.choice(servers.servers), OSError("no"))
        addresses = {f"10.0.0.{chance.randint(1, 9)}:4222" for _ in range(chance.randint(0, 5))}
        if chance.random() < 0.2:
            addresses.add("seed1:1")
        before = servers.servers
        new = servers.discover(gossip(*addresses), current, "nats")
        after = servers.servers
        assert len(set(after)) == len(after)
        assert seeds <= set(after)
        assert {server.address for server in after} == (
            {server.address for server in seeds} | addresses | {current.address}
        )
        # Those that were known keep their turn; the new ones come behind them, but before the one
        # in use.
        known = [server for server in before if server in after and server != current]
        assert list(after) == [*known, *new, current]
        assert not set(new) & set(before)
        assert all((server.user, server.password) == ("u", "p") for server in after)
        assert all(server.discovered == (server not in seeds) for server in after)


@pytest.mark.parametrize(
    "address",
    [
        "",
        ":",
        "host:",
        "host:0",
        "host:65536",
        "host:port",
        "a b:4222",
        "host:4222/path",
        "[::1:4222",
        "::1:4222",
        "nats://host:4222",
        "@host:4222",
        "host\r\n:4222",
        "host:4222\x00",
        "\ud800:4222",
    ],
)
def test_an_unusable_address_does_not_affect_others(address: str) -> None:
    servers = pool("nats://seed:1")
    new = servers.discover(gossip(address, "good:2"), servers.servers[0], "nats")
    assert urls_of(new) == ["nats://good:2"]
    assert urls_of(servers.servers) == ["nats://good:2", "nats://seed:1"]


def test_a_server_has_its_own_credentials_or_the_first_ones() -> None:
    servers = pool("nats://a:1,nats://t%40ken@b:2,nats://u:p%2F@c:3").servers
    assert [(server.user, server.password, server.token) for server in servers] == [
        (None, None, "t@ken"),
        (None, None, "t@ken"),
        ("u", "p/", None),
    ]
    assert "t@ken" not in repr(servers)
    assert "p/" not in repr(servers)


def test_no_server_has_credentials() -> None:
    servers = pool("nats://a:1")
    servers.discover(gossip("b:2"), servers.servers[0], "nats")
    assert not any(server.has_userinfo for server in servers.servers)


@pytest.mark.parametrize(
    ("seed", "named", "expected"),
    [
        ("tls://cluster.example:1", "10.0.0.1:2", "cluster.example"),
        ("tls://cluster.example:1", "[fd00::1]:2", "cluster.example"),
        ("tls://cluster.example:1", "other.example:2", None),
        ("tls://10.0.0.9:1", "10.0.0.1:2", None),
        ("tls://[fd00::9]:1", "10.0.0.1:2", None),
    ],
)
def test_the_name_that_a_certificate_is_checked_against(
    seed: str, named: str, expected: str | None
) -> None:
    servers = pool(seed)
    (new,) = servers.discover(gossip(named), servers.servers[0], "tls")
    assert new.tls_name == expected
    assert new.scheme == "tls"
    # It passes the name on when it becomes the one to name others.
    (newer,) = servers.discover(gossip(named, "10.0.0.77:2"), new, "tls")
    own = None if new.host.replace(".", "").isdigit() or ":" in new.host else new.host
    assert newer.tls_name == (expected or own)


def test_the_scheme_in_use_is_handed_on() -> None:
    servers = pool("nats://a:1")
    (new,) = servers.discover(gossip("b:2"), servers.servers[0], "tls")
    assert new.url == "tls://b:2"


def test_a_removed_server_returns_when_it_is_announced_again() -> None:
    servers = pool("nats://a:1,nats://b:2")
    a, b = servers.servers
    servers.failed(b, OSError("no"))
    servers.remove(b)
    servers.remove(b)
    assert servers.servers == (a,)
    (again,) = servers.discover(gossip("b:2"), a, "nats")
    assert again.url == b.url
    assert again.discovered


def test_repeated_failures_and_their_texts() -> None:
    servers = pool("nats://a:1,nats://b:2")
    a, b = servers.servers
    assert [servers.failed(a, OSError(text)) for text in ("x", "x", "y", "y", "x")] == [
        False,
        True,
        False,
        True,
        False,
    ]
    assert not servers.failed(b, OSError("x"))
    assert servers.failures == {a: 5, b: 1}
    servers.connected(a)
    assert servers.failures == {}
    assert not servers.failed(a, OSError("x"))
    servers.replace(parse_servers("nats://a:1"))
    assert servers.failures == {}
    assert not servers.failed(a, OSError("x"))


def test_credentials_are_of_the_list_they_came_with() -> None:
    servers = pool("nats://u:old@a:1,nats://b:2")
    a = servers.servers[0]
    servers.replace(parse_servers("nats://c:3"))
    assert not any(server.has_userinfo for server in servers.servers)
    servers.replace(parse_servers("nats://c:3,nats://u:new@d:4,nats://b:2"))
    assert {server.password for server in servers.servers} == {"new"}
    # What the old cluster still says of itself.
    (old,) = servers.discover(gossip("e:5"), a, "nats")
    assert old.password == "old"
    (new,) = servers.discover(gossip("e:5", "f:6"), servers.servers[0], "nats")
    assert new.password == "new"


def test_a_failed_server_moves_to_the_end() -> None:
    servers = pool("nats://a:1,nats://b:2,nats://c:3")
    a, b, c = servers.servers
    servers.failed(a, OSError("no"))
    assert servers.servers == (b, c, a)
    servers.failed(c, OSError("no"))
    assert servers.servers == (b, a, c)
    servers.remove(b)
    servers.failed(b, OSError("no"))
    servers.connected(b)
    assert servers.servers == (a, c)


def test_losing_a_server_puts_it_last() -> None:
    servers = pool("nats://a:1")
    a = servers.servers[0]
    servers.connected(a)
    servers.replace(parse_servers("nats://a:1,nats://b:2"))
    servers.lost(a, None, soon=False)
    assert urls_of(servers.servers) == ["nats://b:2", "nats://a:1"]


def test_a_server_may_be_known_by_its_address_too() -> None:
    servers = pool("nats://name:1")
    current, peer = servers.servers[0], ("10.0.0.1", 1)
    servers.connected(current)
    servers.discover(gossip("10.0.0.1:1", "10.0.0.2:1"), current, "nats")
    others = servers.successors(current, peer, include_current=False)
    assert urls_of(list(others)) == ["nats://10.0.0.2:1"]
    others = servers.successors(current, peer, include_current=True)
    assert urls_of(list(others)) == ["nats://10.0.0.2:1", "nats://name:1"]
    servers.lost(current, peer, soon=False)
    order = ["nats://10.0.0.2:1", "nats://10.0.0.1:1", "nats://name:1"]
    assert urls_of(servers.servers) == order


def test_order_is_kept_or_random_as_wanted() -> None:
    text = ",".join(f"nats://host{number}:1" for number in range(12))
    kept = urls_of(pool(text).servers)
    assert kept == text.split(",")
    for make in (
        lambda: pool(text, randomize=True).servers,
        lambda: _replaced(text).servers,
        lambda: _discovered(text),
    ):
        orders = [urls_of(make()) for _ in range(3)]
        assert all(sorted(order) == sorted(kept) for order in orders)
        # Three times in a row as given happens once in 10 to the 26th.
        assert any(order != kept for order in orders)


def _replaced(text: str) -> ServerPool:
    servers = pool("nats://other:1", randomize=True)
    servers.replace(parse_servers(text))
    return servers


def _discovered(text: str) -> list[Server]:
    servers = pool("nats://other:1", randomize=True)
    addresses = text.replace("nats://", "").split(",")
    return servers.discover(gossip(*addresses), servers.servers[0], "nats")


# --- servers named in plaintext, ahead of TLS ----------------------------------------------------


def test_unverified_servers_must_present_a_certificate_for_the_name() -> None:
    servers = pool("nats://u:p@seed:1")
    (seed,) = servers.servers
    new = servers.discover_unverified(gossip("a:1", "10.0.0.1:2", "seed:1"), seed, "seed")
    assert urls_of(new) == ["tls://a:1", "tls://10.0.0.1:2"]
    assert all(server.tls_name == "seed" and server.discovered for server in new)
    assert all((server.user, server.password) == ("u", "p") for server in new)
    own = servers.discover_unverified(gossip("b:1"), seed, None)
    assert [server.tls_name for server in own] == [None]
    assert urls_of(servers.servers) == ["tls://b:1", "nats://seed:1"]


def test_unverified_servers_do_not_displace_others() -> None:
    """Neither a seed's nor that of a server named inside TLS, which they cannot withdraw either."""
    servers = pool("tls://seed:1")
    (seed,) = servers.servers
    servers.discover(gossip("true:1", "seed:1"), seed, "tls")
    new = servers.discover_unverified(gossip("false:1", "true:1"), seed, "lies")
    assert urls_of(new) == ["tls://false:1"]
    assert urls_of(servers.servers) == ["tls://true:1", "tls://false:1", "tls://seed:1"]
    assert servers.servers[0].tls_name is None


def test_what_is_named_inside_tls_replaces_them() -> None:
    servers = pool("tls://seed:1")
    (seed,) = servers.servers
    servers.discover_unverified(gossip("false:1", "both:1"), seed, "seed")
    assert servers.discover(gossip("both:1", "seed:1"), seed, "tls") == []
    assert urls_of(servers.servers) == ["tls://both:1", "tls://seed:1"]
    assert servers.servers[0].tls_name is None


def test_the_one_in_use_stays_until_it_is_left() -> None:
    servers = pool("tls://seed:1")
    (seed,) = servers.servers
    (current,) = servers.discover_unverified(gossip("a:1"), seed, "seed")
    servers.connected(current)
    servers.discover_unverified(gossip("b:1"), current, "seed")
    assert urls_of(servers.servers) == ["tls://seed:1", "tls://b:1", "tls://a:1"]
    servers.discover(gossip("c:1"), current, "tls")
    assert urls_of(servers.servers) == ["tls://seed:1", "tls://c:1", "tls://a:1"]
    servers.discover(gossip("c:1"), seed, "tls")
    assert urls_of(servers.servers) == ["tls://c:1", "tls://seed:1"]


def test_unverified_servers_are_few_however_often_they_are_named() -> None:
    servers = pool("tls://seed:1")
    (seed,) = servers.servers
    for turn in range(10):
        many = gossip(*(f"10.{turn}.0.{number}:1" for number in range(200)))
        assert len(servers.discover_unverified(many, seed, "seed")) == 32
    assert len(servers.servers) == 33
