"""What runs in a connection's nursery.

``supervisor`` keeps a ``session`` alive: the reader, the writer and the pinger of one server
connection, the only tasks that ever touch its stream. What users publish waits in the ``outbox``;
what arrives goes through the ``router`` to subscriptions and to the ``request_mux``.
``server_pool`` knows the servers, ``event_hub`` passes events to listeners, ``stats`` counts.
"""
