"""Layers: attention behind projections of model-wide inputs."""
