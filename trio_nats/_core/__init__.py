"""What runs in a connection's nursery.

``supervisor`` keeps a ``session`` alive: the reader, the writer and the pinger of one wire, the
only tasks that ever touch its stream. What users publish waits in the ``outbox``; what arrives goes
through the ``router`` to subscriptions and to ``requests``. ``pool`` knows the servers, ``hub``
spreads events, ``stats`` counts.
"""
