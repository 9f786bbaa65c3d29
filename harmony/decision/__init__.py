"""Deciding: pure functions from what was seen and forecast to a replica count and its stated risk."""
