"""Single messages and batches of them, read without a consumer."""
