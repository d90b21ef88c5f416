"""A Trio-native client for NATS."""

__version__ = "0.1.0.dev0"
