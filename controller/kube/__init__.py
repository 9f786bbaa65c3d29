"""Talking to the API server: client, errors, caches (list and watch), lease election, events."""
