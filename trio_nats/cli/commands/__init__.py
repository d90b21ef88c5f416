"""The commands of ``trio-nats``, one module each."""
