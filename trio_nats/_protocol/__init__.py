"""The NATS client protocol without any I/O: bytes to events, and commands to bytes.

Nothing here depends on sockets or on Trio, so all of it can be tested and fuzzed with plain bytes.
It follows the server's client protocol description, ADR-4 (headers) and ADR-6 (names).
"""
