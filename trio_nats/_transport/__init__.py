"""Open a stream to a server: TCP, TLS, WebSocket, and the NATS login.

``connector`` makes one attempt to connect, from name resolution to the PONGs. ``tls_policy``
decides whether to use TLS, ``ssl_context`` builds the ``ssl.SSLContext``, ``dial`` opens the TCP
connection, and ``tls_handshake`` adds TLS. ``websocket`` is a WebSocket as a Trio stream.
"""
