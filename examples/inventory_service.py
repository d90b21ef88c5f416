"""A service with the NATS service API: endpoints with typed payloads, discovery and statistics.

Try it with ``trio-nats request inventory.count apples``, ``trio-nats service ls`` and
``trio-nats service stats inventory``. Start it twice to share the work between two instances. On
SIGTERM or SIGINT it accepts no more requests, responds to those that it has, and exits.
"""

import signal

import msgspec
import trio

from trio_nats import JSONCodec, open_nats
from trio_nats.services import Endpoint, Service, ServiceError, ServiceRequest

STOCK = {"apples": 3, "pears": 0}


class Order(msgspec.Struct):
    item: str
    count: int


class Receipt(msgspec.Struct):
    item: str
    left: int


async def count(request: ServiceRequest) -> str:
    item = request.data.decode()
    if item not in STOCK:
        # The client receives this error. Of any other exception it receives only the type.
        raise ServiceError(404, f"there are no {item}")
    return str(STOCK[item])


ORDER, RECEIPT = JSONCodec(Order), JSONCodec(Receipt)


async def take(request: ServiceRequest) -> None:
    order = request.decode(ORDER)  # If this fails, the reply is error 400.
    if STOCK.get(order.item, 0) < order.count:
        raise ServiceError(409, f"not enough {order.item}")
    STOCK[order.item] -= order.count
    await request.respond(Receipt(order.item, STOCK[order.item]), codec=RECEIPT)


async def stop_on_signal(service: Service) -> None:
    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        await anext(signals)
        service.stop()


def in_stock(endpoint: Endpoint) -> dict[str, int]:
    return STOCK


async def main() -> None:
    async with open_nats(name="inventory") as nc, trio.open_nursery() as nursery:
        service = nc.add_service(
            "inventory",
            version="1.0.0",
            description="what there is, and less of it",
            stats_handler=in_stock,
        )
        group = service.group("inventory")
        await group.add_endpoint("count", count)
        # One request at a time, in order.
        await group.add_endpoint("take", take, concurrency=1)
        async with service:
            nursery.start_soon(stop_on_signal, service)
            await nc.flush()
            print("serving", flush=True)
            await service.wait_stopped()
    print("stopped", flush=True)


if __name__ == "__main__":
    trio.run(main)
