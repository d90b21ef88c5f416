"""``Connection.reconnect()``: make before break, as seen by those who publish and subscribe."""

from __future__ import annotations

import pytest
import trio
import trio.testing

from tests.reliability.helpers import (
    PATIENCE,
    QUICK,
    Ledger,
    eventually,
    publishing,
    session,
    take,
    until,
)
from tests.support.peer import Peer
from tests.transports import EVERY, MOST, Transport
from trio_nats import Auth, ConnectionState, Server, UserPassword
from trio_nats._core.hub import EventListener
from trio_nats.events import Connected, Disconnected, Reconnected


@MOST
async def test_on_a_single_server_nothing_is_missed_and_nothing_comes_twice(
    transport: Transport,
    short_overlap: None,
) -> None:
    plain, grouped = Ledger(), Ledger()
    async with (
        transport.server() as server,
        transport.open(server) as pub,
        transport.open(server) as nc,
        nc.subscribe("plain") as everything,
        nc.subscribe("grouped", queue="q") as share,
        nc.events() as events,
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(plain.keep, everything)
        nursery.start_soon(grouped.keep, share)
        await nc.flush(PATIENCE)
        async with (
            publishing(pub, "other", "plain", "grouped", pause=0.0002) as other,
            publishing(nc, "self", "plain", pause=0.0002) as own,
        ):
            await other.reach(50)
            with trio.fail_after(PATIENCE):
                await nc.reconnect()
                await other.reach(200)
                # Another one, when the first is over with.
                await nc.reconnect()
            await other.reach(200)
        await eventually(lambda: plain.count("other") >= other.sent)
        await eventually(lambda: plain.count("self") >= own.sent)
        await eventually(lambda: grouped.count("other") >= other.sent)
        # Whatever would come twice comes from the old wire, until that is closed.
        await eventually(lambda: nc._core._handover is None)
        assert await until(events, Reconnected) == Reconnected(transport.url(server))
        nursery.cancel_scope.cancel()
    plain.check("other", other.sent)
    plain.check("self", own.sent)
    grouped.check("other", other.sent, ordered=False)
    assert nc.stats.lost_in_flight == 0
    assert nc.stats.reconnects == 2


@EVERY
async def test_no_loss_is_announced_and_the_state_stays_open(transport: Transport) -> None:
    async with transport.scripted(session()) as server, transport.open(server) as nc:
        async with nc.events() as events:
            with trio.fail_after(PATIENCE):
                await nc.reconnect()
            assert nc.state is ConnectionState.OPEN
            assert events.receive_nowait() == Reconnected(transport.url(server))
            with pytest.raises(trio.WouldBlock):
                events.receive_nowait()


@EVERY
async def test_new_credentials_come_into_use(transport: Transport) -> None:
    asked: list[str] = []

    def auth(server: Server) -> Auth:
        asked.append(f"user{len(asked)}")
        return UserPassword(asked[-1], "x")

    async with transport.scripted(session()) as server, transport.open(server, auth=auth) as nc:
        with trio.fail_after(PATIENCE):
            await nc.reconnect()
        assert (await server.peer(1)).connect["user"] == "user1"


@EVERY
async def test_without_echo_a_move_is_a_quick_reconnect(transport: Transport) -> None:
    async with (
        transport.server() as server,
        transport.open(server, echo=False, reconnect=QUICK) as nc,
    ):
        async with nc.events() as events, nc.subscribe("a") as sub:
            with trio.fail_after(PATIENCE):
                await nc.reconnect()
            assert "changing servers" in str((await until(events, Disconnected)).reason)
            await until(events, Reconnected)
            await nc.publish("a", b"own")
            async with transport.open(server) as other:
                await other.publish("a", b"other")
            assert [msg.data for msg in await take(sub, 1)] == [b"other"]


@EVERY
async def test_where_no_second_connection_can_be_had_the_first_is_given_up(
    transport: Transport,
) -> None:
    async def refuses(peer: Peer) -> None:
        await peer.send(b"-ERR 'maximum connections exceeded'\r\n")
        await peer.hang_up()

    async with transport.scripted(session(), refuses, session()) as server:
        async with transport.open(server, reconnect=QUICK) as nc, nc.events() as events:
            with trio.fail_after(PATIENCE):
                await nc.reconnect()
            assert "on demand" in str((await until(events, Disconnected)).reason)
            assert nc.stats.reconnects == 1
            await nc.flush(PATIENCE)


@EVERY
async def test_a_cancelled_reconnect_goes_on(transport: Transport) -> None:
    async with transport.scripted(session()) as server, transport.open(server) as nc:
        async with nc.events() as events:
            with trio.CancelScope() as scope:
                scope.cancel()
                await nc.reconnect()
            with trio.move_on_after(0) as scope:
                await nc.reconnect()
            assert scope.cancelled_caught
            assert await until(events, Reconnected) == Reconnected(transport.url(server))


@EVERY
async def test_reconnecting_while_disconnected_returns_once_connected(transport: Transport) -> None:
    async with transport.server() as server:
        async with transport.open(server, reconnect=QUICK) as nc, nc.events() as events:
            await server.kill()
            await until(events, Disconnected)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(nc.reconnect)
                await server.start()
            assert nc.state is ConnectionState.OPEN
            assert nc.stats.reconnects == 1
            await nc.reconnect()
            assert nc.stats.reconnects == 2
            assert not any(isinstance(event, Connected) for event in await drained(events))


async def drained(events: EventListener) -> list[object]:
    """What waits in a channel."""
    found = []
    await trio.lowlevel.checkpoint()
    while True:
        try:
            found.append(events.receive_nowait())
        except trio.WouldBlock:
            return found


@MOST
async def test_subscriptions_made_and_left_during_a_move_are_right_on_the_new_wire(
    transport: Transport,
    short_overlap: None,
) -> None:
    async with transport.server() as server, transport.open(server) as nc:
        async with nc.subscribe("stays") as stays, trio.open_nursery() as nursery:
            nursery.start_soon(nc.reconnect)
            made = 0
            with trio.fail_after(PATIENCE):
                while nc.stats.reconnects == 0:
                    async with nc.subscribe(f"short.{made}", max_msgs=1) as short:
                        await nc.publish(f"short.{made}", b"x")
                        assert (await short.receive()).data == b"x"
                    made += 1
            assert made > 0
            await nc.publish("stays", b"still")
            assert [msg.data for msg in await take(stays, 1)] == [b"still"]
            await eventually(lambda: nc._core._handover is None)
            await nc.flush(PATIENCE)
            subscriptions = (await server.monitor("connz?subs=1"))["connections"]
            assert isinstance(subscriptions, list)
            mine = [one["subscriptions_list"] for one in subscriptions if one["subscriptions"]]
            assert mine == [["stays"]]
