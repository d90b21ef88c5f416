"""The background tasks of a connection and their state.

``supervisor`` keeps a ``session`` running: the reader, the writer and the pinger of one server
connection. No other task touches its stream. Published messages wait in the ``outbox``; the
``router`` passes received messages to subscriptions and to the ``request_mux``. ``server_pool``
lists the servers, ``event_hub`` passes events to listeners, ``stats`` holds the counters.
"""
