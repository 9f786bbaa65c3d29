"""What the loop sees of a cluster: targets, their pods, and how long these take to start."""
