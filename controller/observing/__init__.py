"""What the loop sees of a cluster: targets, who else moves them, their pods, and how long these take to start."""
