"""Consumers, and the messages that they deliver."""
