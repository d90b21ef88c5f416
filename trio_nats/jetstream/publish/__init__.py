"""Publishing into streams, with acknowledgements."""
