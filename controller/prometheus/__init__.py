"""Reading indicators from Prometheus: client, history on a fixed grid, incremental feed; absent is never zero."""
