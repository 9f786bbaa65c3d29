"""The HTTP API, `/api/v1`: what the loop decided and why, over the newest snapshots and the journal.

`harmony.api.app.create_app` makes the application; `harmony.api.models` are its messages, free of any web framework.
"""
