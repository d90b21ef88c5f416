"""From an address and options to a wire that NATS can be spoken on.

``plan`` decides from scheme, mode and material what TLS has to happen; ``context`` builds the
``ssl.SSLContext``; ``dial`` opens TCP; ``handshake`` wraps the TLS stream around it; ``opening``
leads one attempt through all of it, from name resolution to the server's first PONG.
"""
