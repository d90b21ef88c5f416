"""The tests of trio_nats, and under ``tests.support`` what they are built with."""
