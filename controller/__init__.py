"""The Kubernetes world of the control loop: what a tick reads from a cluster, decides and writes back."""
