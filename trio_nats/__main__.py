"""``python -m trio_nats`` is ``trio-nats``."""

from trio_nats.cli import main

if __name__ == "__main__":
    main()
