"""Try each TLS mode with a server: ``python tls_modes.py nats://host:4222 [ca.pem]``."""

import sys

import trio

from trio_nats import ConnectError, NatsError, TLSMode, TLSOptions, open_nats


async def attempt(url: str, options: TLSOptions) -> str:
    try:
        async with open_nats(url, tls=options, connect_timeout=3) as nc:
            return "plaintext" if nc.tls_info is None else nc.tls_info.version
    except ConnectError as error:
        return "\n          ".join(str(attempt) for attempt in error.attempts)
    except NatsError as error:  # options that contradict each other or the URL
        return str(error)


async def main(url: str, ca_file: str | None) -> None:
    for mode in TLSMode:
        print(f"{mode:8}  {await attempt(url, TLSOptions(mode=mode, ca_file=ca_file))}")


if __name__ == "__main__":
    trio.run(main, sys.argv[1], sys.argv[2] if len(sys.argv) > 2 else None)
