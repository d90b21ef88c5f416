"""A cluster: a stream with three replicas, and a change of leader."""

from __future__ import annotations

import pytest
import trio

from tests.support.timeouts import HANG_TIMEOUT
from trio_nats import ReconnectPolicy, RequestTimeoutError, open_nats
from trio_nats.jetstream import JetStreamError, StorageType
from trio_nats.testing import NatsCluster

pytestmark = pytest.mark.slow

QUICK = ReconnectPolicy(wait=0.001, max_wait=0.01)


@pytest.mark.nats_cluster(3, jetstream=True)
async def test_another_leader(nats_cluster: NatsCluster) -> None:
    """What was acknowledged is there once and in order, whichever server leads now."""
    with trio.fail_after(HANG_TIMEOUT):
        async with open_nats(nats_cluster.urls, reconnect=QUICK) as nc:
            js = nc.jetstream(timeout=10)
            stream = await js.create_stream(
                "S", subjects=["s"], num_replicas=3, storage=StorageType.MEMORY, allow_direct=True
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
