"""An ASGI application on Hypercorn and Trio that holds one NATS connection for all requests.

``curl localhost:8000/greet -d sue`` publishes the body as a request to ``greet`` and answers with
the reply. It listens on ``BIND``, or 127.0.0.1:8000. Needs ``pip install 'hypercorn[trio]'``.
"""

import os
import signal

import trio
from hypercorn.config import Config
from hypercorn.trio import serve
from hypercorn.typing import ASGIReceiveCallable, ASGISendCallable, HTTPScope, LifespanScope, Scope

from trio_nats import ConnectError, Connection, NoRespondersError, RequestTimeoutError, open_nats


async def app(scope: Scope, receive: ASGIReceiveCallable, send: ASGISendCallable) -> None:
    if scope["type"] == "lifespan":
        await lifespan(scope, receive, send)
    elif scope["type"] == "http":
        await handle(scope, receive, send)
    else:
        raise RuntimeError(f"cannot serve {scope['type']}")


async def lifespan(
    scope: LifespanScope, receive: ASGIReceiveCallable, send: ASGISendCallable
) -> None:
    """Hold the connection. Hypercorn runs this from before the first request to after the last."""
    await receive()  # lifespan.startup
    try:
        async with open_nats(name="web") as nc, trio.open_nursery() as nursery:
            scope["state"]["nats"] = nc
            nursery.start_soon(greet, nc)
            await send({"type": "lifespan.startup.complete"})
            await receive()  # lifespan.shutdown
            nursery.cancel_scope.cancel()
    except ConnectError as error:
        await send({"type": "lifespan.startup.failed", "message": str(error)})
    else:
        # The server has received everything that was published.
        await send({"type": "lifespan.shutdown.complete"})


async def greet(nc: Connection) -> None:
    """The service that replies. Usually it runs in another process."""
    async with nc.subscribe("greet", queue="greeters") as requests:
        async for msg in requests:
            await msg.respond(b"hello, " + msg.data)


async def handle(scope: HTTPScope, receive: ASGIReceiveCallable, send: ASGISendCallable) -> None:
    nc: Connection = scope["state"]["nats"]
    body = b""
    more = True
    while more:
        message = await receive()
        if message["type"] != "http.request":
            return  # the client has disconnected
        body += message["body"]
        more = message["more_body"]
    subject = scope["path"].strip("/").replace("/", ".")
    try:
        status, answer = 200, (await nc.request(subject, body, timeout=2)).data
    except ValueError as error:  # an invalid subject, or too much data
        status, answer = 400, str(error).encode()
    except NoRespondersError:
        status, answer = 404, b"nobody is listening there"
    except RequestTimeoutError:
        status, answer = 504, b"nobody answered in time"
    headers = [(b"content-length", b"%d" % len(answer))]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": answer, "more_body": False})


async def until_told_to_stop() -> None:
    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        await anext(signals)


async def main() -> None:
    config = Config()
    config.bind = [os.environ.get("BIND", "127.0.0.1:8000")]
    await serve(app, config, shutdown_trigger=until_told_to_stop)
    print("stopped", flush=True)


if __name__ == "__main__":
    trio.run(main)
