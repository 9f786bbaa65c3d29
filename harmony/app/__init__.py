"""Long-running processes of the command line: what is served, from where, and jobs beside it."""
