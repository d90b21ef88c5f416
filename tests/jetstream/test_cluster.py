"""A cluster: a stream with three replicas, and a change of leader."""

from __future__ import annotations

import contextlib

import pytest
import trio

from tests.jetstream.helpers import retried_placement
from tests.support.timeouts import HANG_TIMEOUT
from trio_nats import ReconnectPolicy, RequestTimeoutError, open_nats
from trio_nats.jetstream import JetStreamAPIError, JetStreamError, Placement, StorageType
from trio_nats.testing import NatsCluster

pytestmark = pytest.mark.slow

MEMORY = StorageType.MEMORY
NO_LEADER = (JetStreamAPIError, RequestTimeoutError)
"""What requests raise while there is no leader."""
QUICK = ReconnectPolicy(wait=0.001, max_wait=0.01)


@pytest.mark.nats_cluster(3, jetstream=True)
async def test_another_leader(nats_cluster: NatsCluster) -> None:
    """What was acknowledged is there once and in order, whichever server leads now."""
    with trio.fail_after(HANG_TIMEOUT):
        async with open_nats(nats_cluster.urls, reconnect=QUICK) as nc:
            js = nc.jetstream(timeout=10)
            stream = await retried_placement(
                lambda: js.create_stream(
                    "S", subjects=["s"], num_replicas=3, storage=MEMORY, allow_direct=True
                )
            )
            cluster = stream.info.cluster
            assert cluster is not None
            assert len(cluster.replicas) == 2
            acknowledged: list[int] = []

            async def publish(number: int) -> None:
                """Until it is stored, which its id makes safe."""
                while True:
                    try:
                        await js.publish("s", str(number), msg_id=str(number), timeout=0.2)
                    except (RequestTimeoutError, JetStreamError):
                        continue
                    acknowledged.append(number)
                    return

            for number in range(30):
                if number == 10:
                    await nc.request("$JS.API.STREAM.LEADER.STEPDOWN.S", timeout=10)
                await publish(number)
            info = await stream.refresh()
            assert info.state.messages == 30
            stored = [
                int((await stream.get_msg(seq, direct=False)).data)
                for seq in range(info.state.first_seq, info.state.last_seq + 1)
            ]
            assert stored == acknowledged == list(range(30))


@pytest.mark.requires_server("2.15")
@pytest.mark.nats_cluster(3, jetstream=True)
async def test_administration(nats_cluster: NatsCluster) -> None:
    """Leaders step down, and replicas move to other servers."""
    with trio.fail_after(HANG_TIMEOUT):
        async with open_nats(nats_cluster.urls, reconnect=QUICK) as nc:
            js = nc.jetstream(timeout=5)
            stream = await retried_placement(
                lambda: js.create_stream("S", subjects=["s"], num_replicas=3, storage=MEMORY)
            )
            consumer = await stream.create_consumer(durable_name="C")
            for thing in (stream, consumer):
                cluster = (await thing.refresh()).cluster
                assert cluster is not None
                assert cluster.leader_since is not None
                wanted = cluster.replicas[0].name
                await thing.step_down(placement=Placement(preferred=wanted))
                while cluster.leader != wanted:
                    with contextlib.suppress(*NO_LEADER):
                        cluster = (await thing.refresh()).cluster
                        assert cluster is not None
            await stream.step_down()
            with pytest.raises(JetStreamAPIError, match="peer not a member"):
                await stream.remove_peer("nobody")

            single = await js.create_stream("T", subjects=["t"], storage=MEMORY)
            await js.publish("t", b"1")
            assert single.info.cluster is not None
            before = single.info.cluster.leader
            with pytest.raises(JetStreamAPIError, match=r"not? .*in progress"):
                await single.cancel_move()
            await single.evacuate_peer(before)
            while single.info.cluster is None or single.info.cluster.leader in ("", before):
                await trio.sleep(0.05)
                with contextlib.suppress(*NO_LEADER):
                    await single.refresh()
            assert (await single.get_msg(1)).data == b"1"
