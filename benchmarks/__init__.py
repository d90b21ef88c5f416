"""How fast trio_nats is, beside other clients: ``python -m benchmarks``. See README.md here."""
