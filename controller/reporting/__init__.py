"""What the controller says of a service: status, conditions, events, snapshots, JSON lines."""
