"""From an address and options to a stream that NATS can be spoken on.

``tls_policy`` decides from scheme, mode and TLS material what has to happen; ``ssl_context`` builds
the ``ssl.SSLContext``; ``dial`` opens TCP; ``tls_handshake`` wraps the TLS stream around it;
``connector`` leads one attempt through all of it, from name resolution to the server's first PONG.
"""
