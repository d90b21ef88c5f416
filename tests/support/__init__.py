"""Helpers for all tests: certificates, JWTs, scripted servers, proxies and harnesses.

The scripted servers and proxies do not import :mod:`trio_nats`, so that they cannot repeat a
mistake of the client that they are meant to catch.
"""
