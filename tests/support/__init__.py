"""What the tests are built with: certificates, JWTs, scripted servers, proxies and harnesses.

Nothing in here imports :mod:`trio_nats`: a mistake in the client can never be repeated by the peer
that is meant to catch it.
"""
