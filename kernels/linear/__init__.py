"""Attention in time linear in the length: sums over keys that a small state carries."""
