"""Present a client certificate: ``python mutual_tls.py tls://host:4222 ca.pem cert.pem key.pem``.

``cert.pem`` is the certificate followed by its intermediates, if there are any. The files are read
again at every connect and reconnect, so renewing them needs no restart.
"""

import sys

import trio

from trio_nats import TLSOptions, open_nats


async def main(url: str, ca_file: str, cert_file: str, key_file: str) -> None:
    options = TLSOptions(ca_file=ca_file, cert_file=cert_file, key_file=key_file)
    async with open_nats(url, tls=options) as nc:
        info = nc.tls_info
        assert info is not None
        print("encrypted by", info.version, info.cipher)
        print("server is", info.verified_name, "and its certificate lasts until", end=" ")
        print(info.peer_chain[0].not_after)
        print("our own lasts until", info.client_certificate_expires)
        print("round trip:", await nc.rtt())


if __name__ == "__main__":
    url, ca, cert, key = sys.argv[1:]
    trio.run(main, url, ca, cert, key)
