"""The clients to compare. Each module runs one scenario once, in its own process."""
