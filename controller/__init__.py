"""The Kubernetes world of the control loop (arrives after the simulator; see docs/architecture.md)."""
