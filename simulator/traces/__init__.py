"""Traces: readers of public and of a user's own formats, and a seeded generator of synthetic services."""
