"""Publish and subscribe."""

import trio

from trio_nats import open_nats


async def main() -> None:
    async with open_nats() as nc, nc.subscribe("greet.*") as greetings:
        for name in ("joe", "sue", "bob"):
            await nc.publish(f"greet.{name}", b"hello", headers={"From": "quickstart"})
        for _ in range(3):
            msg = await greetings.receive()
            print(msg.subject, msg.data.decode(), msg.headers["From"])


if __name__ == "__main__":
    trio.run(main)
