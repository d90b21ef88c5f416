"""Run scenarios with one server. Each run has a client and a load in their own processes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import trio
import trustme

from trio_nats.testing import NatsServer, ServerTLS

from . import load
from .peers import Peer
from .scenarios import Scenario

__all__ = ["Cell", "Plan", "Run", "run_all"]

ROOT = Path(__file__).parent.parent


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The scenarios and clients to run, how often and how long."""

    scenarios: Sequence[Scenario]
    peers: Sequence[Peer]
    rounds: int
    seconds: float
    messages: int | None
    """Instead of ``seconds``."""
    give_up: float = 90.0
    """Seconds after which a run counts as failed, for instance because messages were lost."""


@dataclass(frozen=True, kw_only=True)
class Run:
    """One run of one client."""

    count: int
    seconds: float
    cpu_seconds: float
    extra: Mapping[str, float]


@dataclass(kw_only=True)
class Cell:
    """All runs of one client in one scenario."""

    scenario: Scenario
    peer: Peer
    runs: list[Run] = field(default_factory=list)
    unsupported: str | None = None
    failure: str | None = None
    sent_twice: int = 0
    """Number of messages that the server received twice."""

    @property
    def open(self) -> bool:
        """Whether to run it again."""
        return self.unsupported is None and self.failure is None


class RunFailed(Exception):
    """A run that must not be reported as a number."""


@dataclass
class Place:
    """A running server, and how to reach it."""

    server: NatsServer
    ca: str | None

    @property
    def arguments(self) -> list[str]:
        return ["--url", self.server.url, *(["--ca", self.ca] if self.ca else [])]

    async def messages_read(self) -> int:
        """Return the number of messages that the server has received from clients."""
        value = (await self.server.monitor("varz"))["in_msgs"]
        assert isinstance(value, int)
        return value


@asynccontextmanager
async def open_places(scenarios: Sequence[Scenario]) -> AsyncIterator[dict[bool, Place]]:
    """Run a server, and one with TLS if a scenario needs it."""
    async with AsyncExitStack() as stack:
        places = {False: Place(await stack.enter_async_context(NatsServer()), None)}
        if any(scenario.tls for scenario in scenarios):
            directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            authority = trustme.CA()
            certificate = authority.issue_cert("127.0.0.1", "localhost")
            ca, pem = directory / "ca.pem", directory / "server.pem"
            authority.cert_pem.write_to_path(ca)
            certificate.private_key_and_cert_chain_pem.write_to_path(pem)
            server = NatsServer(tls=ServerTLS(pem, pem))
            places[True] = Place(await stack.enter_async_context(server), str(ca))
        yield places


async def run_all(plan: Plan, report: Callable[[list[Cell]], None]) -> None:
    """Run everything, and call ``report`` with all cells of each finished scenario.

    The clients take turns within a round, so that other load on the machine affects all of them.
    Every other round runs in reverse order, so that no client always follows the same one.
    """
    async with open_places(plan.scenarios) as places:
        for scenario in plan.scenarios:
            row = [Cell(scenario=scenario, peer=peer) for peer in plan.peers]
            rounds = scenario.runs if scenario.runs and plan.messages is None else plan.rounds
            for number in range(rounds):
                for cell in row if number % 2 == 0 else reversed(row):
                    if cell.open:
                        await run_once(plan, cell, places[scenario.tls])
            report(row)


async def run_once(plan: Plan, cell: Cell, place: Place) -> None:
    """Add a run to ``cell``, or the reason why there is none."""
    arguments = cell.peer.arguments(cell.scenario)
    if reason := cell.peer.missing():
        cell.unsupported = reason
    elif not arguments:
        cell.unsupported = "not a library of its own"
    else:
        try:
            with trio.fail_after(plan.give_up):
                answer = await measure(plan, cell.scenario, arguments, place)
        except trio.TooSlowError:
            cell.failure = f"not done after {plan.give_up:g} s: messages were lost, or it hangs"
        except RunFailed as exc:
            cell.failure = str(exc)
        else:
            take_answer(cell, answer)


def take_answer(cell: Cell, answer: Mapping[str, object]) -> None:
    reason = answer.get("unsupported")
    if reason is not None:
        cell.unsupported = str(reason)
        return
    twice = answer.get("sent_twice", 0)
    assert isinstance(twice, int)
    if twice and cell.peer.ours:
        cell.failure = f"{twice} messages were sent twice"
        return
    # For other clients it is only noted, because it does not make them faster.
    cell.sent_twice += twice
    count, seconds, cpu = (answer[name] for name in ("count", "seconds", "cpu_seconds"))
    extra = answer["extra"]
    assert isinstance(count, int)
    assert isinstance(seconds, float)
    assert isinstance(cpu, float)
    assert isinstance(extra, dict)
    cell.runs.append(Run(count=count, seconds=seconds, cpu_seconds=cpu, extra=extra))


async def measure(
    plan: Plan, scenario: Scenario, arguments: Sequence[str], place: Place
) -> Mapping[str, object]:
    """Run a client once. Raises :exc:`RunFailed` if messages were lost."""
    how_long = ["--seconds", str(plan.seconds), "--size", str(scenario.size)]
    if plan.messages is not None:
        how_long += ["--messages", str(plan.messages)]
    command = [sys.executable, *arguments, *place.arguments, *how_long]
    if scenario.load is None:
        before = await place.messages_read()
        answer = await run_client(command)
        if scenario.kind == "publish" and "total" in answer:
            total = answer["total"]
            assert isinstance(total, int)
            answer["sent_twice"] = await check_published(place, before, total)
        return answer
    load_command = [
        *(sys.executable, "-m", "benchmarks.load", scenario.load, scenario.name),
        *("--size", str(scenario.size)),
        *place.arguments,
    ]
    async with run_load(load_command) as process:
        answer = await run_client(command)
        await trio.to_thread.run_sync(load.stop, place.server.url, place.ca)
        counted = await read_line(process)
    if "total" in answer and (handled := json.loads(counted)["messages"]) != answer["total"]:
        raise RunFailed(f"the client counts {answer['total']} messages, the load {handled}")
    return answer


async def check_published(place: Place, before: int, total: int) -> int:
    """Return how many messages the server received twice. Its counters lag a little."""
    read = -1
    for _ in range(40):
        read = await place.messages_read() - before
        if read == total:
            return 0
        await trio.sleep(0.05)
    if read > total:
        return read - total
    raise RunFailed(f"the client counts {total} messages, the server {read}")


def environment() -> dict[str, str]:
    """Return the environment without variables that would affect clients."""
    unwanted = {"NATS_URL", "PYTHONDONTWRITEBYTECODE"}
    return {name: value for name, value in os.environ.items() if name not in unwanted}


async def run_client(command: Sequence[str]) -> dict[str, object]:
    done = await trio.run_process(
        command,
        cwd=ROOT,
        env=environment(),
        check=False,
        capture_stdout=True,
        capture_stderr=True,
    )
    if done.returncode:
        words = done.stderr.decode(errors="replace").strip()
        print(f"{' '.join(command)}\n{words}", file=sys.stderr)
        last = words.splitlines()[-1] if words else "no output"
        raise RunFailed(f"exit code {done.returncode}: {last[:200]}")
    answer = json.loads(done.stdout.splitlines()[-1])
    assert isinstance(answer, dict)
    return answer


@asynccontextmanager
async def run_load(command: Sequence[str]) -> AsyncIterator[trio.Process]:
    """Run a load during the block, which begins when it is ready."""
    process = await trio.lowlevel.open_process(
        command, cwd=ROOT, env=environment(), stdout=subprocess.PIPE
    )
    try:
        if (line := await read_line(process)) != "ready":
            raise RunFailed(f"the load says {line!r}")
        yield process
    finally:
        with trio.CancelScope(shield=True):
            process.kill()
            await process.wait()
            assert process.stdout is not None
            await process.stdout.aclose()


async def read_line(process: trio.Process) -> str:
    assert process.stdout is not None
    data = b""
    while not data.endswith(b"\n"):
        more = await process.stdout.receive_some(4096)
        if not more:
            raise RunFailed("the load ended, see its traceback above")
        data += more
    return data.decode().strip()
