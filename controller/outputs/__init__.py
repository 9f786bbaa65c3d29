"""What a decision becomes in a cluster: a scale, a floor, a capacity buffer."""
