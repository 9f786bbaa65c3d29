"""The laboratory: what attention methods cost and what they hold to, measured on this machine."""
