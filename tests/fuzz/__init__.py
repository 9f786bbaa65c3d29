"""Input made to break things, from a seed: `python -m tests.fuzz` (`make fuzz`) runs all of it, the suite a slice."""
