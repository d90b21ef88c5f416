"""Open a stream to a server: TCP, TLS, WebSocket, and the NATS login.

``tls_policy`` decides from scheme, mode and TLS options whether to use TLS; ``ssl_context`` builds
the ``ssl.SSLContext``; ``dial`` opens the TCP connection; ``tls_handshake`` adds TLS;
``connector`` runs one whole attempt, from name resolution to the server's first PONG.
"""
