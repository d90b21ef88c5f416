"""The background tasks of a connection and their state.

``supervisor`` keeps a ``session`` running: the reader, the writer and the pinger of one server
connection. No other task touches its stream. Published messages wait in the ``outbox``. The
``router`` passes received messages to subscriptions and to the ``request_mux``. ``reconnect``
chooses a server from the ``server_pool``, and ``handover`` moves to another one without a gap.
"""
