"""The controller end to end: an API server, a real Prometheus, a GPU service that exports its load."""
