"""A service's own past: what was seen, what every setting would have made of it, and which one is chosen."""
