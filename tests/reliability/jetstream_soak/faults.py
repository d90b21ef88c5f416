"""The faults of the JetStream soak: their schedule, and how they are carried out.

A seed determines everything but the exact moment at which bytes pass. :func:`schedule` lists the
faults; :class:`FaultInjector` carries them out. In addition, :class:`ConnectionPlans` gives some
connections a random plan of their own.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass

import trio

from tests.support.chaos import ChaosProxy, Plan, RandomPlans, Way
from trio_nats import Connection, NatsError
from trio_nats.testing import NatsCluster, NatsServer

__all__ = ["ConnectionPlans", "Fault", "FaultInjector", "schedule"]

CLEAN = 0.7
"""The share of connections without a plan of their own."""
REACH = 1_500_000
"""Bytes before a planned fault, at most."""
SERVER_FAULTS = {
    "kill": 40,
    "kill the leader": 20,
    "kill two": 5,
    "freeze": 15,
    "step down": 20,
}
CONNECTION_FAULTS = {
    "cut": 20,
    "reset": 15,
    "cut all": 5,
    "half-open": 20,
    "refuse": 10,
    "delay": 15,
    "garbage": 25,
}


@dataclass(frozen=True)
class Fault:
    """One fault. The numbers mean different things to different kinds."""

    at: float
    """Seconds after the beginning."""
    kind: str
    target: int
    """A server, a stream, or a connection."""
    seconds: float
    """Seconds that it lasts."""
    number: int
    """The byte at which garbage begins."""

    def __str__(self) -> str:
        return f"{self.at:.2f} {self.kind} {self.target} {self.seconds:.2f} {self.number}"


def schedule(
    seed: int | str, seconds: float, kinds: dict[str, int], gap: tuple[float, float]
) -> list[Fault]:
    """List faults of these kinds, which come as often as their weights say."""
    dice = random.Random(f"{seed}/{sorted(kinds)}")
    faults: list[Fault] = []
    at = dice.uniform(0.5, 1.5)
    while at < seconds:
        [kind] = dice.choices(list(kinds), list(kinds.values()))
        lasting = dice.choice((0.2, 1.0, 3.0)) * dice.uniform(0.5, 1.5)
        if kind == "freeze":
            lasting *= 2  # longer than it takes to elect another leader
        faults.append(Fault(at, kind, dice.randrange(1_000), lasting, dice.randrange(20_000)))
        at += lasting + dice.uniform(*gap)
    return faults


class ConnectionPlans:
    """The plans of the connections through one proxy: most of them clean, until disturbed."""

    def __init__(self, seed: int | str) -> None:
        self._seed = seed
        self._random = RandomPlans(seed, reach=REACH)

    def __call__(self, number: int) -> Plan:
        clean = random.Random(f"{self._seed}/{number}/clean").random() < CLEAN
        return Plan() if clean else self._random(number)


class FaultInjector:
    """Carries out faults, and ends them.

    :param nc: a connection that nothing disturbs but the servers' faults.
    :param client_proxies: the proxies of each client, one for each server.
    :param streams: names of the streams whose leader is killed or made to step down.
    """

    def __init__(
        self,
        cluster: NatsCluster,
        nc: Connection,
        client_proxies: Sequence[Sequence[ChaosProxy]],
        streams: Sequence[str],
        show: Callable[[str], None],
    ) -> None:
        self._cluster, self._nc, self._client_proxies = cluster, nc, client_proxies
        self._streams, self._show = streams, show
        self.done: Counter[str] = Counter()

    @property
    def kills(self) -> int:
        return self.done["kill"] + self.done["kill the leader"] + 2 * self.done["kill two"]

    async def run(
        self, faults: Sequence[Fault], carry_out: Callable[[Fault], Awaitable[None]]
    ) -> None:
        began = trio.current_time()
        for fault in faults:
            await trio.sleep_until(began + fault.at)
            self._show(f"{trio.current_time() - began:7.2f} s: {fault}")
            await carry_out(fault)
            self.done[fault.kind] += 1

    # --- servers ---------------------------------------------------------------------------------

    async def disturb_servers(self, fault: Fault) -> None:
        number = fault.target % len(self._cluster)
        stream = self._streams[fault.target % len(self._streams)]
        match fault.kind:
            case "kill":
                await _kill([self._cluster[number]], fault.seconds)
            case "kill the leader":
                leader = await self._leader(stream)
                await _kill([leader or self._cluster[number]], fault.seconds)
            case "kill two":
                others = [server for server in self._cluster if server != self._cluster[number]]
                await _kill(others, fault.seconds)
            case "freeze":
                self._cluster[number].pause()
                try:
                    await trio.sleep(fault.seconds)
                finally:
                    self._cluster[number].resume()
            case "step down":
                with suppress(NatsError):
                    await self._nc.request(f"$JS.API.STREAM.LEADER.STEPDOWN.{stream}", timeout=1)

    async def _leader(self, stream: str) -> NatsServer | None:
        with suppress(NatsError):
            info = (await self._nc.jetstream(timeout=1).stream(stream)).info
            if info.cluster is not None:
                for server in self._cluster:
                    if server.settings.name == info.cluster.leader:
                        return server
        return None

    # --- connections -----------------------------------------------------------------------------

    async def disturb_connections(self, fault: Fault) -> None:
        client = self._client_proxies[fault.target % len(self._client_proxies)]
        match fault.kind:
            case "cut" | "reset":
                for proxy in client:
                    proxy.cut(reset=fault.kind == "reset")
            case "cut all":
                for proxies in self._client_proxies:
                    for proxy in proxies:
                        proxy.cut(reset=fault.number % 2 == 0)
            case "half-open":
                for proxy in client:
                    proxy.swallow = True
                await trio.sleep(fault.seconds)
                for proxy in client:
                    proxy.swallow = False
                    proxy.cut()  # what was swallowed left a hole
            case "refuse":
                for proxy in client:
                    proxy.refuse()
                    proxy.cut(reset=True)
                await trio.sleep(fault.seconds)
                for proxy in client:
                    proxy.accept()
            case "delay":
                slow = Way(delay=0.02, chunk=4_000)
                await self._replan(client, Plan(up=slow, down=slow), fault.seconds)
            case "garbage":
                bad = Way(corrupt_at=fault.number)
                plan = Plan(up=bad) if fault.target % 2 else Plan(down=bad)
                await self._replan(client, plan, fault.seconds)

    async def _replan(self, client: Sequence[ChaosProxy], plan: Plan, seconds: float) -> None:
        before = [proxy.plans for proxy in client]
        for proxy in client:
            proxy.plans = [plan]
            proxy.cut()
        await trio.sleep(seconds)
        for proxy, plans in zip(client, before, strict=True):
            proxy.plans = plans
            proxy.cut()

    def restore(self) -> None:
        """End all faults of connections."""
        for proxies in self._client_proxies:
            for proxy in proxies:
                proxy.plans = ()
                proxy.swallow = False
                proxy.accept()
                proxy.cut()


async def _kill(servers: Sequence[NatsServer], seconds: float) -> None:
    for server in servers:
        await server.kill()
    await trio.sleep(seconds)
    for server in servers:
        await server.start()
