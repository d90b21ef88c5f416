"""Compare trio_nats with other clients: ``python -m benchmarks``. See README.md here."""
